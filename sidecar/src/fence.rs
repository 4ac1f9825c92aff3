//! The last resort: a node that cannot be trusted to stop serving ends itself.

use lease::time::Millis;
use std::path::Path;

/// A reboot that has not happened by then has failed.
const REBOOT_LIMIT: Millis = Millis(10_000);

const SYSRQ_SWITCH: &str = "/proc/sys/kernel/sysrq";
const SYSRQ_TRIGGER: &str = "/proc/sysrq-trigger";

#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    #[error("{}: {error}", path.display())]
    Sysrq { path: &'static Path, error: std::io::Error },
    #[error("{command}: {problem}")]
    Command { command: String, problem: String },
    #[error("the machine still runs {REBOOT_LIMIT} after it was told to reboot")]
    StillHere,
}

/// Reboots the machine. Returns only where that fails.
///
/// The kernel's own way neither syncs nor stops anything: what hangs in the kernel would hang an orderly reboot too, and
/// what was acknowledged is on disk.
pub async fn reboot(command: Option<&[String]>) -> FenceError {
    let told = match command {
        Some(words) => run(words).await,
        None => sysrq(),
    };
    if let Err(error) = told {
        return error;
    }
    tokio::time::sleep(REBOOT_LIMIT.into()).await;
    FenceError::StillHere
}

fn sysrq() -> Result<(), FenceError> {
    let write = |path: &'static str, what: &str| {
        std::fs::write(path, what).map_err(|error| FenceError::Sysrq { path: Path::new(path), error })
    };
    // Many distributions allow only harmless functions until told otherwise.
    write(SYSRQ_SWITCH, "1")?;
    write(SYSRQ_TRIGGER, "b")
}

async fn run(words: &[String]) -> Result<(), FenceError> {
    let failed = |problem: String| FenceError::Command { command: words.join(" "), problem };
    let (program, arguments) = words.split_first().ok_or_else(|| failed("no command".into()))?;
    let ended = tokio::process::Command::new(program).args(arguments).stdin(std::process::Stdio::null()).status();
    match tokio::time::timeout(REBOOT_LIMIT.into(), ended).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(status.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("not done within {REBOOT_LIMIT}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_fails_is_said_to_have_failed() {
        let words = ["/bin/false".to_owned()];
        let told = reboot(Some(&words)).await.to_string();
        assert!(told.contains("/bin/false: exit status: 1"), "{told}");
        let words = ["/nonexistent/reboot".to_owned()];
        assert!(matches!(reboot(Some(&words)).await, FenceError::Command { .. }));
    }
}
