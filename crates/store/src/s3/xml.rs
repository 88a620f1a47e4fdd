//! The little XML that S3 answers with: listings and errors.
//!
//! Reads elements and their text and nothing else; attributes, comments and declarations are
//! skipped, entities beyond the five of XML and numbers are refused.

/// A step through a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Start(String),
    Text(String),
    End,
}

/// Not XML as S3 writes it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not well-formed")]
pub(super) struct Malformed;

/// Deepest nesting of elements.
const DEPTH_MAX: usize = 16;

/// Splits a document; every start has its end.
pub(super) fn events(text: &str) -> Result<Vec<Event>, Malformed> {
    let mut events = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        if !open.is_empty() && !before.is_empty() {
            events.push(Event::Text(unescape(before)?));
        }
        rest = if tag.starts_with("<!--") {
            after(tag, "-->")?
        } else if tag.starts_with("<?") {
            after(tag, "?>")?
        } else if tag.starts_with("<!") {
            // Declarations can define entities; no store sends any.
            return Err(Malformed);
        } else {
            let end = tag.find('>').ok_or(Malformed)?;
            element(&tag[1..end], &mut open, &mut events)?;
            &tag[end + 1..]
        };
    }
    if open.is_empty() && !events.is_empty() { Ok(events) } else { Err(Malformed) }
}

fn element<'a>(
    inside: &'a str,
    open: &mut Vec<&'a str>,
    events: &mut Vec<Event>,
) -> Result<(), Malformed> {
    if let Some(name) = inside.strip_prefix('/') {
        if open.pop() != Some(name.trim()) {
            return Err(Malformed);
        }
        events.push(Event::End);
        return Ok(());
    }
    let empty = inside.ends_with('/');
    let name = inside.trim_end_matches('/').split([' ', '\t', '\r', '\n']).next().unwrap_or("");
    if name.is_empty() || open.len() >= DEPTH_MAX {
        return Err(Malformed);
    }
    events.push(Event::Start(name.to_owned()));
    if empty {
        events.push(Event::End);
    } else {
        open.push(name);
    }
    Ok(())
}

fn after<'a>(text: &'a str, end: &str) -> Result<&'a str, Malformed> {
    text.find(end).map(|at| &text[at + end.len()..]).ok_or(Malformed)
}

fn unescape(text: &str) -> Result<String, Malformed> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let entity = &rest[at + 1..];
        let end = entity.find(';').filter(|end| *end <= 8).ok_or(Malformed)?;
        out.push(match &entity[..end] {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let number = number.strip_prefix('#').ok_or(Malformed)?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                code.ok().and_then(char::from_u32).ok_or(Malformed)?
            }
        });
        rest = &entity[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Calls `leaf` at the end of each element with its path below the root, such as `Contents/Key`,
/// and the text since the last start or end.
pub(super) fn visit(
    text: &str,
    root: &str,
    mut leaf: impl FnMut(&str, String),
) -> Result<(), Malformed> {
    let mut path: Vec<String> = Vec::new();
    let mut value = String::new();
    for event in events(text)? {
        match event {
            Event::Start(name) => {
                if path.is_empty() && name != root {
                    return Err(Malformed);
                }
                path.push(name);
                value.clear();
            }
            Event::Text(text) => value.push_str(&text),
            Event::End => {
                let name = path.get(1..).unwrap_or_default().join("/");
                leaf(&name, std::mem::take(&mut value));
                path.pop();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_have_paths_and_text() {
        let text = "<?xml version=\"1.0\"?>\n<R xmlns=\"x\"><!-- c --><A><B>1 &lt;&#x41;&#66;</B><C/>\
                    </A>\n<D a='b'>x&amp;y</D></R>\n";
        let mut seen = Vec::new();
        visit(text, "R", |path, value| seen.push((path.to_owned(), value))).unwrap();
        let expected = [("A/B", "1 <AB"), ("A/C", ""), ("A", ""), ("D", "x&y"), ("", "")];
        let seen: Vec<_> = seen.iter().map(|(p, v)| (p.as_str(), v.trim())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_s3_never_sends_is_refused() {
        for bad in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a><b></a></b>",
            "<a",
            "<a>&nope;</a>",
            "<>x</>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            "<a>&#xd800;</a>",
            "<a>&#;</a>",
            "<!-- ",
        ] {
            assert_eq!(events(bad), Err(Malformed), "{bad}");
        }
        assert!(events(&"<a>".repeat(1000)).is_err());
        assert_eq!(visit("<a></a>", "b", |_, _| {}), Err(Malformed));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[<>/&;#a-c !?\\-\"']{0,60}|.{0,60}") {
            let _ = visit(&text, "a", |_, _| {});
        }
    }
}
