//! Text forms of durations, signals and file modes.

use std::time::Duration;

/// Reads a duration as Go prints it (`5s`, `2.5s`, `1m30s`, `500ms`, `0s`, `1h`), or a bare
/// number of seconds. `None` for anything else, negative or absurdly long (over a year).
/// Source: contract, http-api 0.4.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => parse_go_duration(text)?,
    };
    let valid = seconds.is_finite() && (0.0..=31_622_400.0).contains(&seconds);
    valid.then(|| Duration::from_secs_f64(seconds))
}

fn parse_go_duration(text: &str) -> Option<f64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit_len] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * scale;
        rest = &rest[unit_len..];
    }
    Some(total)
}

/// Linux signal numbers by name, without `SIG`.
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Reads a signal: a number from 1 to 64, or a name with or without `SIG`, in any case.
#[must_use]
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS.iter().find(|(known, _)| *known == name).map(|&(_, number)| number)
}

/// Returns `SIGTERM` for 15; the number as text for one without a name.
#[must_use]
pub fn signal_name(number: i32) -> String {
    SIGNALS
        .iter()
        .find(|&&(_, known)| known == number)
        .map_or_else(|| number.to_string(), |(name, _)| format!("SIG{name}"))
}

/// Reads an octal file mode of 3 or 4 digits (`644`, `0755`). Set-id and sticky bits count.
#[must_use]
pub fn parse_mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let valid = matches!(digits.len(), 3..=5) && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| valid)?;
    (mode <= 0o7777).then_some(mode)
}

/// Returns a mode as 4 octal digits.
#[must_use]
pub fn format_mode(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

/// Reads a query's boolean: `true`, `false`, `1`, `0`. An empty value is true (`?tty`).
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "" | "True" | "TRUE" => Some(true),
        "false" | "0" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_all_sdks_are_read() {
        for (text, ms) in [
            ("5s", 5000),
            ("5.0s", 5000),
            ("2.5s", 2500),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("0s", 0),
            ("0", 0),
            ("1h", 3_600_000),
            ("10", 10_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5x", "-1s", "-1", "1e999", "NaN", "inf", "5s5", "9999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn signals_are_read_in_every_spelling() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse_signal(text), Some(15), "{text}");
        }
        for text in ["", "SIG", "0", "65", "-9", "BOGUS"] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(40), "40");
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("644"), Some(0o644));
        assert_eq!(parse_mode("0755"), Some(0o755));
        assert_eq!(parse_mode("4755"), Some(0o4755));
        for text in ["", "8", "888", "77777", "-644", "rw"] {
            assert_eq!(parse_mode(text), None, "{text}");
        }
        assert_eq!(format_mode(0o100_644), "0644");
    }
}
