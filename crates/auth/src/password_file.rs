//! Users and their passwords: one `name:password` a line, as `mosquitto_passwd` writes them.
//!
//! A line that begins with `#`, and a line without a colon, says nothing. A user that stands twice, an empty name and
//! a password that is not hashed are errors: whoever wrote them meant something else.

use std::collections::HashMap;

use crate::error::FileError;
use crate::password::{Algorithm, KeptPassword};

/// Bytes of a name, at most: more does not fit into a CONNECT.
const NAME_SIZE_MAX: usize = 65_535;

/// What a file says about a user and a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordAnswer {
    /// The user's password.
    Right,
    /// Not the user's password.
    Wrong,
    /// There is no such user.
    Unknown,
}

/// The users of one file.
#[derive(Debug, Clone)]
pub struct PasswordFile {
    users: HashMap<Box<str>, KeptPassword>,
    /// Checked in place of a user that does not exist: of the costliest kind in the file.
    nobody: KeptPassword,
}

impl PasswordFile {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The first line that cannot be used; nothing of the file is then.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let mut users = HashMap::new();
        for (index, content) in text.lines().enumerate() {
            let error = |message| FileError { line: index + 1, message };
            if content.starts_with('#') {
                continue;
            }
            let Some((name, password)) = content.split_once(':') else { continue };
            let (name, password) = (name.trim(), password.trim());
            if name.is_empty() {
                return Err(error("there is no user name before the colon"));
            }
            if name.len() > NAME_SIZE_MAX {
                return Err(error("the user name is longer than 65,535 bytes"));
            }
            let kept = KeptPassword::parse(password).map_err(error)?;
            if users.insert(name.into(), kept).is_some() {
                return Err(error("this user stands in an earlier line already"));
            }
        }
        let nobody = users.values().max_by_key(|kept| kept.cost()).cloned();
        let nobody =
            nobody.unwrap_or_else(|| KeptPassword::create(Algorithm::Sha512, b"nobody", [0; 64]));
        Ok(Self { users, nobody })
    }

    /// Whether this is the user's password. `None` is no password at all, which is nobody's, not even of a user whose
    /// password is empty.
    ///
    /// Slow on purpose, and as slow for a user that does not exist. Never on a shard.
    #[must_use]
    pub fn verify(&self, name: &str, password: Option<&[u8]>) -> PasswordAnswer {
        let kept = self.users.get(name);
        // For a user that does not exist the answer does not matter; the time that it takes does.
        let right =
            std::hint::black_box(kept.unwrap_or(&self.nobody).verify(password.unwrap_or_default()));
        match kept {
            None => PasswordAnswer::Unknown,
            Some(_) if right && password.is_some() => PasswordAnswer::Right,
            Some(_) => PasswordAnswer::Wrong,
        }
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is none: then nobody can log in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// What is kept for a user. A check against an old cached answer is worth nothing when this has changed.
    #[must_use]
    pub fn kept(&self, name: &str) -> Option<&KeptPassword> {
        self.users.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, password: &str) -> String {
        let kept = KeptPassword::create(Algorithm::Sha512, password.as_bytes(), [3; 64]);
        format!("{name}:{}\n", kept.encode())
    }

    #[test]
    fn users_log_in_with_their_passwords() {
        let text =
            format!("# people\n{}\nno colon here\n{}", line("anna", "a"), line(" ben hur ", "b:c"));
        let file = PasswordFile::parse(&text).unwrap();
        assert_eq!(file.len(), 2);
        for (name, password, expected) in [
            ("anna", "a", PasswordAnswer::Right),
            ("anna", "b", PasswordAnswer::Wrong),
            ("ben hur", "b:c", PasswordAnswer::Right),
            ("nobody", "nobody", PasswordAnswer::Unknown),
            ("", "", PasswordAnswer::Unknown),
        ] {
            assert_eq!(file.verify(name, Some(password.as_bytes())), expected, "{name}");
        }
    }

    /// The right user without a password is not let in (as in CVE-2016-9877).
    #[test]
    fn no_password_is_nobodys_password() {
        let file = PasswordFile::parse(&(line("anna", "a") + &line("ben", ""))).unwrap();
        for (name, password, expected) in [
            ("anna", None, PasswordAnswer::Wrong),
            ("ben", None, PasswordAnswer::Wrong),
            ("ben", Some(&b""[..]), PasswordAnswer::Right),
            ("carl", None, PasswordAnswer::Unknown),
        ] {
            assert_eq!(file.verify(name, password), expected, "{name}");
        }
    }

    #[test]
    fn a_bad_line_is_named_and_refuses_the_file() {
        let good = line("anna", "a");
        for (text, at, reason) in [
            (format!("{good}ben:plain\n"), 2, "not hashed"),
            (format!("{good}\n{good}"), 3, "already"),
            (format!("#\n:{}", &good[5..]), 2, "no user name"),
            ("anna:\n".to_owned(), 1, "not hashed"),
        ] {
            let error = PasswordFile::parse(&text).unwrap_err();
            assert_eq!(error.line, at, "{text}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn an_empty_file_lets_nobody_in() {
        let file = PasswordFile::parse("").unwrap();
        assert!(file.is_empty());
        assert_eq!(file.verify("anna", Some(b"a")), PasswordAnswer::Unknown);
    }
}
