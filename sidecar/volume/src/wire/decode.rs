//! Cuts a stream of bytes into frames.

use super::{Frame, HEADER, Header, MANDATORY, Message, Violation};
use bytes::{Buf, BytesMut};

/// Reads frames off the front of a buffer, however the bytes came in.
///
/// A payload is handed out as a slice of the buffer that it arrived in: not copied. It is up to who fills the buffer to read
/// large payloads into memory of their own ([`Decoder::missing`] tells how much is to come).
#[derive(Debug, Default)]
pub struct Decoder {
    header: Option<Header>,
    /// Bytes of an unknown optional frame that are still to be dropped.
    skip: usize,
}

impl Decoder {
    /// The next frame; `None`: it has not arrived whole. After an error nothing more is to be read from this stream.
    ///
    /// # Errors
    /// [`Violation`]: hang up.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        loop {
            let drop = self.skip.min(buffer.len());
            buffer.advance(drop);
            self.skip -= drop;
            if self.skip > 0 {
                return Ok(None);
            }
            let Some(header) = self.header else {
                let Some(bytes) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
                let header = Header::decode(bytes)?;
                let known = Message::check(&header)?;
                buffer.advance(HEADER);
                if known {
                    self.header = Some(header);
                } else if header.flags & MANDATORY != 0 {
                    return Err(Violation::Unknown { kind: header.kind });
                } else {
                    self.skip = header.length as usize;
                }
                continue;
            };
            let length = header.length as usize;
            if buffer.len() < length {
                return Ok(None);
            }
            self.header = None;
            let payload = buffer.split_to(length).freeze();
            header.check(&payload)?;
            let message = Message::decode(&header, payload)?;
            let Header { epoch, session, sequence, .. } = header;
            return Ok(Some(Frame { epoch, session, sequence, message }));
        }
    }

    /// How many bytes of the frame that has begun are still missing, at least: room worth reserving. Never more than
    /// [`super::MAX_DATA`] and a header.
    #[must_use]
    pub fn missing(&self, buffered: usize) -> usize {
        match self.header {
            Some(header) => (header.length as usize).saturating_sub(buffered),
            None if self.skip > 0 => self.skip.min(HEADER),
            None => HEADER.saturating_sub(buffered),
        }
    }
}
