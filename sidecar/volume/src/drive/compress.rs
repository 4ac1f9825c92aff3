//! Whether data are compressed on their way to other replicas: the choice of who sends, for peers that can read it.

/// How what goes to the peers is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    #[default]
    Off,
    Lz4,
}

impl Compress {
    /// As configurations and people say it.
    ///
    /// # Errors
    /// What may be said, where it is another word.
    pub fn new(name: &str) -> Result<Self, String> {
        match name {
            "off" => Ok(Self::Off),
            "lz4" => Ok(Self::Lz4),
            _ => {
                Err("\"lz4\" (data that shrink travel compressed: where the network is what limits) or \"off\""
                    .to_owned())
            }
        }
    }
}
