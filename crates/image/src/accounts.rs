//! Adds the sprite's user to the account files of an imported root, without running anything.

use crate::error::ImageError;
use crate::overlay::SPRITE_ID;

const NAME: &str = "sprite";
/// Groups of the user, where they exist; `wheel` is `sudo` elsewhere.
const GROUPS: [&str; 3] = ["sudo", "users", "wheel"];

/// The texts of the account files. **Source:** passwd(5), group(5), shadow(5), gshadow(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
    pub(crate) shadow: Option<String>,
    pub(crate) gshadow: Option<String>,
}

impl Accounts {
    /// Returns the texts with the user `sprite`, uid and gid 1001, in them.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if somebody else has the name or the number.
    pub(crate) fn with_sprite(mut self, shell: &str) -> Result<Self, ImageError> {
        let taken = |what: String| Err(ImageError::Invalid { what });
        let number = SPRITE_ID.to_string();
        if self.passwd.trim().is_empty() {
            self.passwd = "root:x:0:0:root:/root:/bin/sh\n".to_owned();
        }
        if self.group.trim().is_empty() {
            self.group = "root:x:0:\n".to_owned();
        }
        match (find(&self.passwd, 0, NAME), find(&self.passwd, 2, &number)) {
            (Some(a), Some(b)) if a == b => {}
            (None, None) => append(
                &mut self.passwd,
                &format!("{NAME}:x:{number}:{number}::/home/{NAME}:{shell}"),
            ),
            (Some(_), _) => {
                return taken(format!("the image has a user `{NAME}` whose uid is not {number}"));
            }
            (None, Some(line)) => {
                let name = line.split(':').next().unwrap_or_default();
                return taken(format!("the image's user `{name}` has uid {number}, which is ours"));
            }
        }
        match (find(&self.group, 0, NAME), find(&self.group, 2, &number)) {
            (Some(a), Some(b)) if a == b => {}
            (None, None) => append(&mut self.group, &format!("{NAME}:x:{number}:")),
            _ => return taken(format!("the image's group `{NAME}` or gid {number} is another's")),
        }
        self.group = join_groups(&self.group, 3);
        if let Some(shadow) = &mut self.shadow
            && find(shadow, 0, NAME).is_none()
        {
            append(shadow, &format!("{NAME}:!:19000:0:99999:7:::"));
        }
        if let Some(gshadow) = &mut self.gshadow {
            if find(gshadow, 0, NAME).is_none() {
                append(gshadow, &format!("{NAME}:!::"));
            }
            *gshadow = join_groups(gshadow, 3);
        }
        Ok(self)
    }
}

/// Finds the line whose field is `value`.
fn find<'a>(text: &'a str, field: usize, value: &str) -> Option<&'a str> {
    text.lines().find(|line| line.split(':').nth(field) == Some(value))
}

fn append(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}

/// Puts the user into the member field of its groups.
fn join_groups(text: &str, field: usize) -> String {
    let mut joined = String::new();
    for line in text.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        let member = fields.get(field).is_some_and(|all| all.split(',').any(|name| name == NAME));
        let members;
        if fields.len() > field && GROUPS.contains(&fields[0]) && !member {
            members = match fields[field] {
                "" => NAME.to_owned(),
                all => format!("{all},{NAME}"),
            };
            fields[field] = &members;
        }
        append(&mut joined, &fields.join(":"));
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(passwd: &str, group: &str) -> Accounts {
        Accounts { passwd: passwd.to_owned(), group: group.to_owned(), ..Accounts::default() }
    }

    #[test]
    fn the_user_is_added_with_its_groups() {
        let before = Accounts {
            shadow: Some("root:*:1::::::".to_owned()),
            gshadow: Some("sudo:*::\n".to_owned()),
            ..accounts("root:x:0:0::/root:/bin/sh", "root:x:0:\nsudo:x:27:ann\nusers:x:100:\n")
        };
        let after = before.with_sprite("/bin/bash").unwrap();
        assert!(after.passwd.ends_with("\nsprite:x:1001:1001::/home/sprite:/bin/bash\n"));
        assert_eq!(
            after.group,
            "root:x:0:\nsudo:x:27:ann,sprite\nusers:x:100:sprite\nsprite:x:1001:\n"
        );
        assert!(after.shadow.as_deref().unwrap().contains("\nsprite:!:"));
        assert_eq!(after.gshadow.as_deref(), Some("sudo:*::sprite\nsprite:!::\n"));
        assert_eq!(after.clone().with_sprite("/bin/sh").unwrap(), after, "a second time");
    }

    #[test]
    fn a_foreign_owner_of_the_name_or_number_is_an_error() {
        for (passwd, group) in [
            ("bob:x:1001:1001::/:/bin/sh", ""),
            ("sprite:x:1000:1000::/:/bin/sh", ""),
            ("", "bob:x:1001:"),
            ("", "sprite:x:5:"),
        ] {
            assert!(accounts(passwd, group).with_sprite("/bin/sh").is_err(), "{passwd}{group}");
        }
    }

    #[test]
    fn an_empty_root_gets_a_root_user_too() {
        let after = accounts("", "").with_sprite("/bin/sh").unwrap();
        assert!(after.passwd.starts_with("root:x:0:0:"));
    }
}
