//! Who is asked about a client, in which order: one chain for each listener.
//!
//! The first answer wins, yes or no; whoever does not know a client says nothing, and the next one is asked. A client
//! about whom nobody says anything is not let in.
//!
//! | link | has an answer about | says nothing about |
//! |---|---|---|
//! | `certificate` | clients with a verified certificate that has such a name: yes | all others |
//! | `password_file` | its own users | clients without a user name, and users that are not in the file |
//! | `jwt` | clients whose password is a token, or that name its method: yes to good ones, no to others | clients whose password is none |
//! | `http` | clients that the service knows | all others |
//! | `scram` | clients that name its method: all of them | all others |
//! | `anonymous` | clients without a user name: yes | all others |
//!
//! A client that names a method of enhanced authentication is for the link that has this method, and for no other.
//! In a chain in which no link looks at user names they mean nothing, and `anonymous` lets in everybody.

use crate::scram::SCRAM_SHA_256;

/// Where in a certificate the user name stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CertificateName {
    /// The Common Name of the subject.
    #[default]
    CommonName,
    /// The whole subject, as RFC 4514 writes it.
    Subject,
    /// The first alternative name that is a host name.
    Dns,
    /// The first alternative name that is a mail address.
    Email,
    /// The first alternative name that is a URI.
    Uri,
}

/// Whoever has to be asked elsewhere, because an answer takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authenticator {
    /// The users of the password file.
    PasswordFile,
    /// The users of the file of SCRAM verifiers, by SCRAM-SHA-256.
    Scram,
    /// Whoever has signed the token in the password.
    Token,
    /// A service of others.
    Service,
}

impl Authenticator {
    /// Whether what a client may do can come with its answer.
    #[must_use]
    pub const fn grants(self) -> bool {
        matches!(self, Self::Token | Self::Service)
    }

    /// Whether it speaks a method of enhanced authentication.
    #[must_use]
    pub fn speaks(self, method: &str) -> bool {
        match self {
            Self::PasswordFile | Self::Service => false,
            Self::Scram => method == SCRAM_SHA_256,
            Self::Token => TOKEN_METHODS.contains(&method),
        }
    }
}

/// What a client calls it that shows a token as the data of enhanced authentication: our own name for it, and that of Azure's
/// broker, whose clients then need no other one.
const TOKEN_METHODS: [&str; 2] = ["JWT", "OAUTH2-JWT"];

/// One link of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The name in the client's certificate is its user name.
    Certificate(CertificateName),
    /// Somebody elsewhere is asked.
    Ask(Authenticator),
    /// Whoever says no name is let in as nobody.
    Anonymous,
}

/// The links of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    links: Box<[Link]>,
}

/// What a client shows, as far as the order depends on it.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Its user name.
    pub user: Option<&'a str>,
    /// Whether it shows a password.
    pub password: bool,
    /// The method of enhanced authentication that it names.
    pub method: Option<&'a str>,
    /// The names in its verified certificate.
    pub certificate: &'a dyn Fn(CertificateName) -> Option<&'a str>,
}

/// The next step about a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// It is let in, as this user or as nobody in particular.
    LetIn(Option<&'a str>),
    /// Somebody is to be asked. When he does not know the client, go on from the second.
    Ask(Authenticator, usize),
    /// Nobody has said anything about it.
    Nobody,
    /// Nobody speaks the method that it names.
    NoMethod,
}

impl Chain {
    /// A chain of these links, asked from the first on.
    #[must_use]
    pub fn new(links: &[Link]) -> Self {
        Self { links: links.into() }
    }

    /// Everybody is let in, and names mean nothing.
    #[must_use]
    pub fn open() -> Self {
        Self::new(&[Link::Anonymous])
    }

    /// Its links.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Whether nobody can be let in at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// What to do about a client from link number `at` on.
    #[must_use]
    pub fn next<'a>(&self, at: usize, shown: Shown<'a>) -> Next<'a> {
        for (index, link) in self.links.iter().enumerate().skip(at) {
            if let Some(method) = shown.method {
                match *link {
                    Link::Ask(authenticator) if authenticator.speaks(method) => {
                        return Next::Ask(authenticator, index + 1);
                    }
                    _ => continue,
                }
            }
            match *link {
                Link::Ask(Authenticator::Scram) => {}
                Link::Ask(authenticator @ Authenticator::Service) => {
                    return Next::Ask(authenticator, index + 1);
                }
                Link::Certificate(name) => {
                    if let Some(name) = (shown.certificate)(name).filter(|name| is_name(name)) {
                        return Next::LetIn(Some(name));
                    }
                }
                Link::Ask(authenticator @ Authenticator::Token) => {
                    if shown.password {
                        return Next::Ask(authenticator, index + 1);
                    }
                }
                Link::Ask(authenticator @ Authenticator::PasswordFile) => {
                    if shown.user.is_some() {
                        return Next::Ask(authenticator, index + 1);
                    }
                }
                Link::Anonymous => {
                    if shown.user.is_none() || !self.looks_at_names() {
                        return Next::LetIn(None);
                    }
                }
            }
        }
        if shown.method.is_some() && at == 0 { Next::NoMethod } else { Next::Nobody }
    }

    fn looks_at_names(&self) -> bool {
        self.links.iter().any(|link| matches!(link, Link::Ask(_)))
    }
}

/// Whether a text can be a user name: one that a CONNECT could carry.
fn is_name(text: &str) -> bool {
    // No NUL, no more bytes than a length of two bytes tells; and an empty one would name nobody.
    !text.is_empty() && text.len() <= usize::from(u16::MAX) && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Link = Link::Ask(Authenticator::PasswordFile);
    const CERTIFICATE: Link = Link::Certificate(CertificateName::CommonName);

    fn next(links: &[Link], at: usize, user: Option<&'static str>, name: &'static str) -> String {
        let certificate = move |which| match which {
            CertificateName::CommonName if name != "-" => Some(name),
            _ => None,
        };
        let shown = Shown { user, password: false, method: None, certificate: &certificate };
        format!("{:?}", Chain::new(links).next(at, shown))
    }

    #[test]
    fn the_first_that_knows_a_client_decides() {
        let ask = format!("{:?}", Next::Ask(Authenticator::PasswordFile, 1));
        let ask_second = format!("{:?}", Next::Ask(Authenticator::PasswordFile, 2));
        let nobody = "Nobody".to_owned();
        let as_user = |name| format!("{:?}", Next::LetIn(Some(name)));
        let as_nobody = format!("{:?}", Next::LetIn(None));
        for (links, at, user, name, expected) in [
            (&[][..], 0, None, "-", &nobody),
            (&[Link::Anonymous], 0, None, "-", &as_nobody),
            // Names that nobody looks at mean nothing.
            (&[Link::Anonymous], 0, Some("anna"), "-", &as_nobody),
            (&[CERTIFICATE, Link::Anonymous], 0, Some("anna"), "-", &as_nobody),
            (&[FILE], 0, Some("anna"), "-", &ask),
            (&[FILE], 0, None, "-", &nobody),
            (&[FILE], 1, Some("anna"), "-", &nobody),
            (&[FILE, Link::Anonymous], 0, None, "-", &as_nobody),
            // Whom the file does not know is not let in as nobody: a wrong name is no name.
            (&[FILE, Link::Anonymous], 1, Some("anna"), "-", &nobody),
            // A certificate says who it is, whatever name stands in the CONNECT.
            (&[CERTIFICATE, FILE], 0, Some("anna"), "sensor", &as_user("sensor")),
            (&[CERTIFICATE, FILE], 0, Some("anna"), "-", &ask_second),
            (&[CERTIFICATE, FILE], 0, Some("anna"), "", &ask_second),
            (&[FILE, CERTIFICATE], 0, Some("anna"), "sensor", &ask),
            (&[FILE, CERTIFICATE], 1, Some("anna"), "sensor", &as_user("sensor")),
            (&[FILE, CERTIFICATE], 0, None, "sensor", &as_user("sensor")),
        ] {
            assert_eq!(&next(links, at, user, name), expected, "{links:?} {at} {user:?} {name}");
        }
    }

    #[test]
    fn a_method_is_for_the_link_that_speaks_it() {
        let scram = Link::Ask(Authenticator::Scram);
        let token = Link::Ask(Authenticator::Token);
        let nobody = |_| Some("sensor");
        let links = [CERTIFICATE, FILE, scram, Link::Anonymous];
        for (links, method, expected) in [
            (&links[..], Some(SCRAM_SHA_256), Next::Ask(Authenticator::Scram, 3)),
            (&links, Some("SCRAM-SHA-1"), Next::NoMethod),
            (&links[..2], Some(SCRAM_SHA_256), Next::NoMethod),
            (&[Link::Anonymous], Some(SCRAM_SHA_256), Next::NoMethod),
            (&[scram], None, Next::Nobody),
            (&[scram, token], Some("JWT"), Next::Ask(Authenticator::Token, 2)),
            (&[token], Some("OAUTH2-JWT"), Next::Ask(Authenticator::Token, 1)),
            (&[token], Some(SCRAM_SHA_256), Next::NoMethod),
            (&[scram], Some("JWT"), Next::NoMethod),
            (&[token], Some("jwt"), Next::NoMethod),
            (&[token], None, Next::Nobody),
        ] {
            let shown = Shown { user: None, password: false, method, certificate: &nobody };
            assert_eq!(Chain::new(links).next(0, shown), expected, "{links:?} {method:?}");
        }
    }

    #[test]
    fn another_name_of_the_certificate_is_another_question() {
        let link = [Link::Certificate(CertificateName::Email)];
        assert_eq!(next(&link, 0, None, "sensor"), "Nobody");
    }
}
