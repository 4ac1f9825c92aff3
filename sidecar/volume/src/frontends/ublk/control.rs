//! Commands to the ublk driver, by `/dev/ublk-control`: each waits for its answer on the calling thread.

use super::abi::{self, INFO_BYTES, Info};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

const CONTROL: &str = "/dev/ublk-control";

/// Why there is no device by ublk. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(
        "this kernel has no ublk driver: install the kernel package with its modules (Debian 13's and RHEL 10's have it, Ubuntu's is in linux-modules-extra-$(uname -r), Amazon Linux has none), see that `modprobe ublk_drv` works, or take the driver nbd"
    )]
    NoDriver,
    #[error(
        "this kernel ({0}) never ends what is asked to add a ublk device, until it is rebooted: update it, or take the driver nbd"
    )]
    BadKernel(String),
    #[error("the ublk driver does not {what}: {error}; it takes root (CAP_SYS_ADMIN) and a kernel from 6.9 on")]
    Refused { what: &'static str, error: Errno },
    #[error("the ublk driver of kernel {0} is too old: it takes a kernel from 6.9 on, or the driver nbd")]
    Old(String),
    #[error(
        "the ublk driver of this kernel does not give what is asked of it, copying by its server above all: take the driver nbd"
    )]
    Lacking,
    #[error("{what}: {error}; io_uring must be allowed (sysctl kernel.io_uring_disabled=0), or take the driver nbd")]
    Uring { what: &'static str, error: io::Error },
}

/// The driver's own device.
pub(super) struct Control {
    file: File,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
}

impl Control {
    pub(super) fn open() -> Result<Control, ControlError> {
        let file = match File::options().read(true).write(true).open(CONTROL) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ControlError::NoDriver),
            other => other.map_err(|error| ControlError::Uring { what: CONTROL, error })?,
        };
        let ring = IoUring::builder().build(2).map_err(|error| ControlError::Uring { what: "io_uring", error })?;
        Ok(Control { file, ring })
    }

    /// A new device, not yet started, of the number that it says.
    pub(super) fn add(&mut self, wanted: &Info) -> Result<Info, ControlError> {
        let mut bytes = wanted.bytes();
        self.ask("add a device", abi::ADD, wanted.number, Some(&mut bytes), 0)?;
        let given = Info::parse(&bytes);
        if given.fits(wanted) {
            return Ok(given);
        }
        self.delete(given.number)?;
        Err(ControlError::Lacking)
    }

    pub(super) fn info(&mut self, number: u32) -> Result<Info, ControlError> {
        let mut bytes = [0; INFO_BYTES];
        self.ask("tell of its device", abi::GET_INFO, number, Some(&mut bytes), 0)?;
        Ok(Info::parse(&bytes))
    }

    pub(super) fn set_params(&mut self, number: u32, mut params: [u8; abi::PARAMS_BYTES]) -> Result<(), ControlError> {
        self.ask("take a device's size", abi::SET_PARAMS, number, Some(&mut params), 0)
    }

    /// Makes it a block device. The kernel reads from it before this returns: its queue must be served meanwhile.
    pub(super) fn start(&mut self, number: u32) -> Result<(), ControlError> {
        self.ask("start a device", abi::START, number, None, own_pid())
    }

    /// What still uses it gets errors. The queue, if it has a server, must be served meanwhile.
    pub(super) fn stop(&mut self, number: u32) -> Result<(), ControlError> {
        self.ask("stop a device", abi::STOP, number, None, 0)
    }

    /// Ends it; who has it open keeps its number from being used again, and nothing else.
    pub(super) fn delete(&mut self, number: u32) -> Result<(), ControlError> {
        self.ask("delete a device", abi::DELETE_ASYNC, number, None, 0)
    }

    /// [`Errno::BUSY`] while the old server is not gone.
    pub(super) fn start_recovery(&mut self, number: u32) -> Result<(), ControlError> {
        self.ask("begin a device's recovery", abi::START_RECOVERY, number, None, 0)
    }

    /// What waited goes on, to the queue's new server.
    pub(super) fn end_recovery(&mut self, number: u32) -> Result<(), ControlError> {
        self.ask("end a device's recovery", abi::END_RECOVERY, number, None, own_pid())
    }

    #[expect(unsafe_code, reason = "io_uring takes raw pointers, and uses them until the completion")]
    fn ask(
        &mut self,
        what: &'static str,
        code: u32,
        number: u32,
        buffer: Option<&mut [u8]>,
        data: u64,
    ) -> Result<(), ControlError> {
        let buffer = buffer
            .map_or((0, 0), |bytes| (bytes.as_mut_ptr() as u64, u16::try_from(bytes.len()).expect("a few bytes")));
        let command = abi::command(number, buffer, data);
        let entry = opcode::UringCmd80::new(types::Fd(self.file.as_raw_fd()), code).cmd(command).build();
        // SAFETY: the buffer is borrowed, and the file open, until this returns, which it does after the only completion.
        unsafe { self.ring.submission().push(&entry) }.expect("nothing else is in it");
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing was taken: the kernel does not know of the buffer.
                Err(error) if !self.ring.submission().is_empty() => {
                    return Err(ControlError::Uring { what: "io_uring", error });
                }
                Err(error) => tracing::warn!(%error, "io_uring does not wait; it is asked again"),
            }
            if let Some(entry) = self.ring.completion().next() {
                return match entry.result() {
                    0.. => Ok(()),
                    error => Err(ControlError::Refused { what, error: Errno::from_raw_os_error(-error) }),
                };
            }
        }
    }
}

fn own_pid() -> u64 {
    u64::from(std::process::id())
}

/// Whether this kernel's driver is one to be asked at all.
pub(super) fn judge(release: &str) -> Result<(), ControlError> {
    // Their drivers never answer the first command, and keep their lock: nobody gets a device before a reboot. What is fixed in the
    // version after it each time.
    const EXACT: [&str; 2] = ["6.18.4", "6.18.5"];
    const UBUNTU: [&str; 5] = ["6.17.0-35-", "6.17.0-38-", "6.17.0-40-", "6.17.0-1019-aws", "6.17.0-1015-azure"];
    // It can end a device that somebody still has open from then on.
    const FIRST: (u32, u32) = (6, 9);
    let version = release.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
    if EXACT.contains(&version) || UBUNTU.iter().any(|bad| release.starts_with(bad)) {
        return Err(ControlError::BadKernel(release.to_owned()));
    }
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < FIRST => Err(ControlError::Old(release.to_owned())),
        // What cannot be read has nothing known against it.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{ControlError, judge};

    #[test]
    fn kernels_that_hang_or_are_too_old_are_known() {
        for bad in ["6.18.4", "6.18.5-arch1-1", "6.17.0-35-generic", "6.17.0-1019-aws"] {
            assert!(matches!(judge(bad), Err(ControlError::BadKernel(_))), "{bad}");
        }
        for old in ["6.8.0-60-generic", "6.1.0-18-amd64", "5.14.0-427.el9.x86_64"] {
            assert!(matches!(judge(old), Err(ControlError::Old(_))), "{old}");
        }
        let good = [
            "6.12.117+deb12-cloud-amd64",
            "6.9.0",
            "6.18.40",
            "6.18.6",
            "6.17.0-41-generic",
            "6.17.0-1020-aws",
            "7.0",
            "",
        ];
        for good in good {
            assert!(judge(good).is_ok(), "{good}");
        }
    }
}
