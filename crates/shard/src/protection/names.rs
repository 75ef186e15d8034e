//! Which client identifiers and user names are let in.

/// Patterns of names; none: all names.
///
/// In a pattern `*` stands for any characters, `?` for one, `%u` for the client's user name (which must be there then), and
/// everything else for itself. Where a user name of thousands of characters meets an identifier as long, it is not let in.
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

/// The most steps that a pattern with the client's own user name in it may take on the client's own identifier: both are
/// the client's choice, up to 65,535 bytes each, and the shard waits meanwhile. Longer ones are not let in.
const STEPS_OF_USER_MAX: usize = 1 << 20;

fn matches(pattern: &str, name: &str, user: Option<&str>) -> bool {
    if !pattern.contains("%u") {
        return glob(Signs::new(pattern, ""), name);
    }
    let Some(user) = user.filter(|user| !user.is_empty()) else { return false };
    let signs = pattern.len() + pattern.matches("%u").count() * user.len();
    signs.saturating_mul(name.len()) <= STEPS_OF_USER_MAX && glob(Signs::new(pattern, user), name)
}

/// One sign of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Any characters, or none.
    Many,
    /// One character, whatever it is.
    Any,
    /// This character.
    One(char),
}

/// The signs of a pattern, one after the other. A user name is taken literally, whatever it is made of.
#[derive(Clone)]
struct Signs<'a> {
    /// What is left of the user name in whose midst we are.
    literal: std::str::Chars<'a>,
    pattern: &'a str,
    user: &'a str,
}

impl<'a> Signs<'a> {
    /// `user` is not empty where `%u` is to stand for it.
    fn new(pattern: &'a str, user: &'a str) -> Self {
        Self { literal: "".chars(), pattern, user }
    }
}

impl Iterator for Signs<'_> {
    type Item = Sign;

    fn next(&mut self) -> Option<Sign> {
        if !self.user.is_empty()
            && self.literal.as_str().is_empty()
            && let Some(behind) = self.pattern.strip_prefix("%u")
        {
            self.pattern = behind;
            self.literal = self.user.chars();
        }
        if let Some(literal) = self.literal.next() {
            return Some(Sign::One(literal));
        }
        let mut signs = self.pattern.chars();
        let sign = match signs.next()? {
            '*' => Sign::Many,
            '?' => Sign::Any,
            literal => Sign::One(literal),
        };
        self.pattern = signs.as_str();
        Some(sign)
    }
}

/// Whether a name fits, in time that grows with the product of both lengths at most: only the last [`Sign::Many`] is ever
/// tried again, because what stood before it fitted as far to the left as it can.
fn glob(mut signs: Signs<'_>, name: &str) -> bool {
    let mut name = name.chars();
    // Where to go on if it does not fit: behind the last star, one character further in the name.
    let mut retry: Option<(Signs<'_>, std::str::Chars<'_>)> = None;
    loop {
        match (signs.next(), name.clone().next()) {
            (None, None) => return true,
            (Some(Sign::Many), _) => retry = Some((signs.clone(), name.clone())),
            (Some(sign), Some(found)) if sign == Sign::Any || sign == Sign::One(found) => {
                name.next();
            }
            _ => {
                let Some((behind, from)) = &mut retry else { return false };
                if from.next().is_none() {
                    return false;
                }
                signs = behind.clone();
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
            ("*%u*%u*", "x-a-a", Some("a"), true),
            ("*%u*%u", "a-ab", Some("ab"), false),
            ("%u*%u", "aba", Some("ab"), false),
            ("%u?", "%u?x", Some("%u?"), true),
            ("**%u", "\0anna", Some("anna"), true),
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
        // A user name may stand many times in the identifier: to try each place of each `%u` takes exponential time.
        let patterns = NamePatterns::new(["*%u*%u%u*%u*%u%u*A"]);
        assert!(!patterns.allow(&"\0".repeat(500), Some("\0")));
        assert!(patterns.allow(&("\0".repeat(500) + "A"), Some("\0")));
    }

    #[test]
    fn a_user_name_too_long_to_be_looked_for_is_not_let_in() {
        let patterns = NamePatterns::new(["*%u"]);
        let user = "a".repeat(60_000);
        assert!(!patterns.allow(&user, Some(&user)));
        assert!(patterns.allow(&"a".repeat(1_000), Some(&"a".repeat(1_000))));
    }
}
