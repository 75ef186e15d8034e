//! Which client identifiers and user names are let in.

/// Patterns of names; none: all names.
///
/// In a pattern `*` stands for any characters, `?` for one, `%u` for the client's user name (which must be there then), and
/// everything else for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamePatterns(Box<[Box<str>]>);

impl NamePatterns {
    /// Any of these lets a name in.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }

    /// Whether a name is let in. `user` is what `%u` stands for.
    #[must_use]
    pub fn allow(&self, name: &str, user: Option<&str>) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| matches(pattern, name, user))
    }
}

fn matches(pattern: &str, name: &str, user: Option<&str>) -> bool {
    if !pattern.contains("%u") {
        return glob(pattern, name);
    }
    // A user name is taken literally, whatever it is made of; one `%u` and what stands beside it is all there is to try.
    let Some(user) = user.filter(|user| !user.is_empty()) else { return false };
    let (before, behind) = pattern.split_once("%u").unwrap_or((pattern, ""));
    name.match_indices(user).any(|(at, _)| {
        glob(before, &name[..at]) && matches(behind, &name[at + user.len()..], Some(user))
    })
}

/// `*` and `?`, in time that grows with the product of both lengths at most.
fn glob(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // Where to go on if it does not fit: behind the last star, one character further in the name.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let before = pattern.clone();
        match (pattern.next(), name.clone().next()) {
            (None, None) => return true,
            (Some('*'), _) => retry = Some((pattern.clone(), name.clone())),
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                name.next();
            }
            _ => {
                drop(before);
                let Some((behind, from)) = &mut retry else { return false };
                if from.next().is_none() {
                    return false;
                }
                pattern = behind.clone();
                name = from.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, user, expected) in [
            ("*", "", None, true),
            ("", "", None, true),
            ("", "a", None, false),
            ("dev-*", "dev-", None, true),
            ("dev-*", "dev-1", None, true),
            ("dev-*", "Dev-1", None, false),
            ("*-x", "a-x-x", None, true),
            ("*-x", "a-x-y", None, false),
            ("a?c", "aüc", None, true),
            ("a?c", "ac", None, false),
            ("*a*b*", "xxaxxbxx", None, true),
            ("*a*b*", "xxbxxaxx", None, false),
            ("%u", "anna", Some("anna"), true),
            ("%u", "ann", Some("anna"), false),
            ("%u", "anna", None, false),
            ("%u-*", "anna-1", Some("anna"), true),
            ("%u-*", "ben-1", Some("anna"), false),
            ("*-%u", "x-*", Some("*"), true),
            ("*-%u", "x-y", Some("*"), false),
            ("%u%u", "aa", Some("a"), true),
            ("%u%u", "a", Some("a"), false),
            ("100%", "100%", None, true),
        ] {
            let patterns = NamePatterns::new([pattern]);
            assert_eq!(patterns.allow(name, user), expected, "{pattern} {name} {user:?}");
        }
        assert!(NamePatterns::default().allow("anything", None));
        let two = NamePatterns::new(["a*", "b*"]);
        assert!(two.allow("b1", None) && !two.allow("c", None));
    }

    #[test]
    fn a_name_made_to_be_slow_is_not() {
        let patterns = NamePatterns::new(["*a*a*a*a*a*a*a*a*b"]);
        assert!(!patterns.allow(&"a".repeat(65_535), None));
    }
}
