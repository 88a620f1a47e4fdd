//! Command-line options: `--name value` and `--name=value` alike, anywhere among the words.

use std::collections::BTreeMap;

use crate::Failure;

/// A parsed command line.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// What is no option, in order.
    pub(crate) words: Vec<String>,
    values: BTreeMap<String, String>,
    flags: Vec<String>,
}

/// Parses `args`. `values` are the options that take a value, `flags` those that do not.
pub(crate) fn parse(args: &[String], values: &[&str], flags: &[&str]) -> Result<Options, Failure> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            options.words.extend(args.cloned());
            break;
        }
        let Some(name) = arg.strip_prefix("--") else {
            if arg.len() > 1 && arg.starts_with('-') {
                return Err(Failure::Usage(format!("unknown option `{arg}`")));
            }
            options.words.push(arg.clone());
            continue;
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        if values.contains(&name) {
            let value = value.or_else(|| args.next().cloned());
            let value = value.ok_or_else(|| Failure::Usage(format!("`--{name}` needs a value")))?;
            options.values.insert(name.to_owned(), value);
        } else if flags.contains(&name) && value.is_none() {
            options.flags.push(name.to_owned());
        } else {
            return Err(Failure::Usage(format!("unknown option `--{name}`")));
        }
    }
    Ok(options)
}

impl Options {
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    /// Returns exactly the words named, or says which is missing or too much.
    pub(crate) fn exactly<const N: usize>(&self, names: [&str; N]) -> Result<[&str; N], Failure> {
        if let Some(missing) = names.get(self.words.len()) {
            return Err(Failure::Usage(format!("<{missing}> is missing")));
        }
        if let Some(extra) = self.words.get(N) {
            return Err(Failure::Usage(format!("unexpected `{extra}`")));
        }
        Ok(std::array::from_fn(|i| self.words[i].as_str()))
    }
}

/// Splits a list at its commas; an empty text is an empty list.
pub(crate) fn commas(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split(',').collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn options_are_found_anywhere_in_both_spellings() {
        let line = args(&["--cmd", "node", "web", "--args=a,b", "--no-stream"]);
        let options = parse(&line, &["cmd", "args"], &["no-stream"]).unwrap();
        assert_eq!(options.exactly(["name"]).unwrap(), ["web"]);
        assert_eq!(options.value("cmd"), Some("node"));
        assert_eq!(commas(options.value("args").unwrap()), ["a", "b"]);
        assert!(options.flag("no-stream"));
        let line = args(&["--", "--cmd"]);
        assert_eq!(parse(&line, &["cmd"], &[]).unwrap().words, ["--cmd"]);
    }

    #[test]
    fn wrong_usage_is_said() {
        assert!(parse(&args(&["--cmd"]), &["cmd"], &[]).is_err());
        assert!(parse(&args(&["--what"]), &["cmd"], &[]).is_err());
        assert!(parse(&args(&["-x"]), &["cmd"], &[]).is_err());
        assert!(parse(&args(&["--flag=1"]), &[], &["flag"]).is_err());
        assert!(Options::default().exactly(["name"]).is_err());
    }
}
