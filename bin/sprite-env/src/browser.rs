//! `sprite-browser`: asks the terminal's owner to open a URL. Source: contract, in-sprite 8.2.

use std::io::Write;

use crate::Failure;

const URL_MAX: usize = 8 * 1024;

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let [url] = args else {
        return Err(Failure::Usage("expected one URL".to_owned()));
    };
    if url == "--help" || url == "-h" {
        println!("Opens a URL in the browser of whoever is at the terminal.\n");
        println!("Usage: sprite-browser <url>");
        return Ok(());
    }
    let request = request(url)?;
    let sent = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/tty")
        .and_then(|mut terminal| terminal.write_all(request.as_bytes()));
    if sent.is_err() {
        println!("{url}");
        return Err(Failure::error("there is no terminal; open the URL above yourself"));
    }
    Ok(())
}

/// Makes the escape sequence. What would end it early is refused.
fn request(url: &str) -> Result<String, Failure> {
    if url.len() > URL_MAX || url.chars().any(char::is_control) {
        return Err(Failure::error("this is not a URL"));
    }
    let ports = callback_ports(url).iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let tail = if ports.is_empty() { String::new() } else { format!(";{ports}") };
    Ok(format!("\x1b]9999;browser-open;{url}{tail}\x1b\\"))
}

/// Finds the ports of this sprite that the page will call back, as login pages do: they stand
/// in the URL, encoded or not.
fn callback_ports(url: &str) -> Vec<u16> {
    let text = url.replace("%3A", ":").replace("%3a", ":");
    let mut ports = Vec::new();
    for host in ["localhost:", "127.0.0.1:"] {
        for (at, _) in text.match_indices(host) {
            let rest = &text[at + host.len()..];
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            if let Ok(port) = rest[..digits].parse::<u16>()
                && port > 0
                && !ports.contains(&port)
                && ports.len() < 8
            {
                ports.push(port);
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_the_contracts_sequence() {
        let plain = request("https://example.com/").unwrap();
        assert_eq!(plain, "\x1b]9999;browser-open;https://example.com/\x1b\\");
        let login = request("https://a.test/?redirect_uri=http%3A%2F%2Flocalhost%3A8085%2Fcb");
        assert!(login.unwrap().ends_with("cb;8085\x1b\\"));
    }

    #[test]
    fn a_url_cannot_carry_other_sequences() {
        assert!(request("https://a/\x1b]0;title\x07").is_err());
        assert!(request("https://a/\x07").is_err());
        assert!(request(&"x".repeat(9000)).is_err());
    }
}
