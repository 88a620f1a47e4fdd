//! Opens links that a program in the sprite asks to open here.
//!
//! The sprite is not trusted: only plain http and https URLs, given to the opener as one
//! argument without a shell, and no more than one per second.

use std::process::Stdio;
use std::time::{Duration, Instant};

const URL_BYTES_MAX: usize = 4096;
const PAUSE: Duration = Duration::from_secs(1);

/// Opens links, not too often.
#[derive(Default)]
pub(crate) struct Browser {
    last: Option<Instant>,
}

impl Browser {
    /// Opens a link if it is one. Returns the URL if the user has to open it.
    pub(crate) fn open(&mut self, url: &str) -> Option<String> {
        if !is_safe(url) || self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            tracing::debug!("link not opened");
            return None;
        }
        self.last = Some(Instant::now());
        let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        // In a group of its own: the terminal's signals are not for it.
        let started = tokio::process::Command::new(opener)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        started.is_err().then(|| url.to_owned())
    }
}

/// Whether it is a plain http or https URL with a host.
fn is_safe(url: &str) -> bool {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    host.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '['))
        && url.len() <= URL_BYTES_MAX
        && url.bytes().all(|b| b.is_ascii_graphic() && !b"\"'`<>\\^{|}".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_web_addresses_are_safe() {
        for good in [
            "https://example.com/login?code=a%20b&x=1;y#z",
            "http://localhost:8080/cb",
            "http://[::1]/",
        ] {
            assert!(is_safe(good), "{good}");
        }
        let long = format!("https://h/{}", "x".repeat(URL_BYTES_MAX));
        for bad in [
            "",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "--help",
            "https://",
            "https:///x",
            "https://h/a b",
            "https://h/\n",
            "https://h/$(id)`id`",
            "HTTPS://h",
            "https://-x",
            &long,
        ] {
            assert!(!is_safe(bad), "{bad}");
        }
    }
}
