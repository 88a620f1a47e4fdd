//! `--env K=v,K2=v2`.

/// Splits a list of variables at its commas. A piece that does not begin with a variable's name
/// and `=` belongs to the value before it: `A=1,2,B=3` is `A=1,2` and `B=3`.
pub(crate) fn split_env(list: &str) -> Result<Vec<(String, String)>, String> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for piece in list.split(',') {
        match (piece.split_once('=').filter(|(key, _)| is_name(key)), variables.last_mut()) {
            (Some((key, value)), _) => variables.push((key.to_owned(), value.to_owned())),
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(piece);
            }
            (None, None) => return Err(format!("`{piece}` is not of the form NAME=value")),
        }
    }
    Ok(variables)
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.as_bytes()[0].is_ascii_digit()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_variables_but_may_be_in_values() {
        for (list, expected) in [
            ("A=1", vec![("A", "1")]),
            ("A=1,B=2", vec![("A", "1"), ("B", "2")]),
            ("A=1,2,B=3", vec![("A", "1,2"), ("B", "3")]),
            ("A=x=y,", vec![("A", "x=y,")]),
            ("A=,_B2=a b", vec![("A", ""), ("_B2", "a b")]),
            ("URL=http://h/?a=1,b c=2", vec![("URL", "http://h/?a=1,b c=2")]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            assert_eq!(split_env(list), Ok(expected), "{list}");
        }
        for bad in ["", "A", "=1", "2A=1", "A B=1"] {
            assert!(split_env(bad).is_err(), "{bad}");
        }
    }
}
