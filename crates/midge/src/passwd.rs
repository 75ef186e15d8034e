//! `midge passwd`: writes password files in mosquitto's format.

use std::{
    fs,
    io::{BufRead, IsTerminal, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use midge_auth::{
    Algorithm, KeptPassword, PasswordFile, ScramFile, Verifier, scram::ITERATIONS_DEFAULT,
};

use crate::{failure::Failure, security};

/// Options of `midge passwd`.
#[derive(Debug, PartialEq, Args)]
pub(crate) struct PasswdArguments {
    /// The password file; made when it is not there.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// The user to add, or whose password to change.
    #[arg(value_name = "USER", required_unless_present = "upgrade")]
    pub(crate) user: Option<String>,

    /// The password. Without it, it is asked for, or read as one line when the input is no terminal. Anybody on this
    /// machine can see it in the list of processes while the command runs.
    #[arg(value_name = "PASSWORD", conflicts_with_all = ["delete", "upgrade"])]
    pub(crate) password: Option<String>,

    /// Remove the user.
    #[arg(short = 'D', long, conflicts_with = "upgrade")]
    pub(crate) delete: bool,

    /// Hash the passwords of a file that has them in plain text.
    #[arg(short = 'U', long, conflicts_with = "user")]
    pub(crate) upgrade: bool,

    /// How the password is kept.
    #[arg(short = 'H', long = "hash", value_enum, default_value_t = Hash::Argon2id)]
    pub(crate) hash: Hash,

    /// Write a file of SCRAM-SHA-256 verifiers (security.scram_file) instead.
    #[arg(long, conflicts_with_all = ["hash", "upgrade"])]
    pub(crate) scram: bool,

    /// Rounds, 1 to 10000000: of sha512-pbkdf2 (default 210000), or of --scram (at least 4096, default 15000), which the
    /// clients compute.
    #[arg(short = 'I', long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) iterations: Option<u32>,
}

/// How a password is kept, by the names that mosquitto's tool has for it.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Hash {
    /// 46 MiB and about 40 ms a check. mosquitto reads it from 2.1 on.
    Argon2id,
    /// mosquitto reads it from 2.0 on.
    Sha512Pbkdf2,
    /// Fast to guess: for files that old brokers must read.
    Sha512,
}

pub(crate) fn run(arguments: &PasswdArguments) -> Result<(), Failure> {
    let path = &arguments.file;
    let old = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !arguments.upgrade => {
            String::new()
        }
        Err(error) => return Err(other(path, "cannot read", &error)),
    };
    let lines = match &arguments.user {
        None => hash_plain_lines(&old, arguments)?,
        Some(user) => {
            let user = if arguments.scram { &prepared("USER", user)? } else { user };
            check_name(user)?;
            let line = match (arguments.delete, arguments.scram) {
                (true, _) => None,
                (false, false) => Some(kept(&password(arguments)?, arguments)?.encode()),
                (false, true) => Some(verifier(&password(arguments)?, arguments)?.encode()),
            };
            replace(&old, user, line.as_deref()).ok_or_else(|| {
                Failure::Other(format!("{}: there is no user {user}", path.display()))
            })?
        }
    };
    let parsed = match arguments.scram {
        true => ScramFile::parse(&lines).map(|_| ()),
        false => PasswordFile::parse(&lines).map(|_| ()),
    };
    parsed.map_err(|error| {
        Failure::Other(format!(
            "{}:{}: {}; nothing was written",
            path.display(),
            error.line,
            error.message
        ))
    })?;
    write(path, &lines)
}

fn check_name(user: &str) -> Result<(), Failure> {
    let reason = match user {
        "" => "empty",
        name if name.contains(':') => "with a colon",
        name if name.contains(char::is_control) => "with control characters",
        name if name.trim() != name => "with spaces at an end",
        name if name.starts_with('#') => "that begins like a comment",
        name if name.len() > 65_535 => "of more than 65,535 bytes",
        _ => return Ok(()),
    };
    Err(Failure::configuration(format_args!(
        "USER: a name {reason} cannot stand in a password file"
    )))
}

/// The file with the user's line changed, added or (`None`) removed; `None` when a user to be removed is not there.
fn replace(old: &str, user: &str, kept: Option<&str>) -> Option<String> {
    let line = kept.map(|kept| format!("{user}:{kept}"));
    let is_users = |text: &str| {
        !text.starts_with('#') && text.split_once(':').is_some_and(|(name, _)| name.trim() == user)
    };
    let mut found = false;
    let mut lines = Vec::new();
    for text in old.lines() {
        if !is_users(text) {
            lines.push(text);
        } else if !found {
            found = true;
            lines.extend(line.as_deref());
        }
    }
    match &line {
        Some(line) if !found => lines.push(line),
        None if !found => return None,
        _ => {}
    }
    let mut text = lines.join("\n");
    text.push('\n');
    Some(text)
}

/// The file with every password that is not hashed yet hashed.
fn hash_plain_lines(old: &str, arguments: &PasswdArguments) -> Result<String, Failure> {
    let mut text = String::new();
    for line in old.lines() {
        match line.split_once(':') {
            Some((name, password))
                if !line.starts_with('#') && KeptPassword::parse(password.trim()).is_err() =>
            {
                let kept = kept(password, arguments)?;
                text.push_str(&format!("{}:{}\n", name.trim(), kept.encode()));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    Ok(text)
}

fn kept(password: &str, arguments: &PasswdArguments) -> Result<KeptPassword, Failure> {
    let algorithm = match arguments.hash {
        Hash::Argon2id => Algorithm::Argon2id,
        Hash::Sha512Pbkdf2 => {
            Algorithm::Pbkdf2 { iterations: arguments.iterations.unwrap_or(210_000) }
        }
        Hash::Sha512 => Algorithm::Sha512,
    };
    let salt = security::random().map_err(Failure::Other)?;
    Ok(KeptPassword::create(algorithm, password.as_bytes(), salt))
}

fn verifier(password: &str, arguments: &PasswdArguments) -> Result<Verifier, Failure> {
    let iterations = arguments.iterations.unwrap_or(ITERATIONS_DEFAULT);
    if iterations < 4096 {
        return Err(Failure::configuration(format_args!(
            "--iterations {iterations}: SCRAM-SHA-256 wants at least 4096"
        )));
    }
    let random = security::random().map_err(Failure::Other)?;
    let mut salt = [0; 16];
    salt.copy_from_slice(&random[..16]);
    Ok(Verifier::create(prepared("PASSWORD", password)?.as_bytes(), salt, iterations))
}

/// A name or a password as clients of SCRAM send or compute with it.
fn prepared(what: &str, text: &str) -> Result<String, Failure> {
    stringprep::saslprep(text).map(Into::into).map_err(|_| {
        Failure::configuration(format_args!("{what}: has characters that SCRAM does not allow"))
    })
}

fn password(arguments: &PasswdArguments) -> Result<String, Failure> {
    if let Some(password) = &arguments.password {
        return Ok(password.clone());
    }
    let unread =
        |error: std::io::Error| Failure::Other(format!("cannot read the password: {error}"));
    let password = if std::io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ").map_err(unread)?;
        if rpassword::prompt_password("Once more: ").map_err(unread)? != password {
            return Err(Failure::Other("the two passwords differ; nothing was written".to_owned()));
        }
        password
    } else {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(unread)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() {
        return Err(Failure::Other("an empty password is none; nothing was written".to_owned()));
    }
    Ok(password)
}

/// Puts the new file in the old one's place in one step, so that a broker that reloads just then reads one or the other.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let mode = fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode & 0o777)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| other(path, "cannot write", &error))
}

fn other(path: &Path, what: &str, error: &std::io::Error) -> Failure {
    Failure::Other(format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_line_is_changed_where_it_stands() {
        let kept = KeptPassword::create(Algorithm::Sha512, b"x", [9; 64]).encode();
        let line = |user: &str| format!("{user}:{kept}");
        let old = "# people\nanna:old\nben:old\n";
        let changed = replace(old, "anna", Some(&kept)).unwrap();
        assert_eq!(changed, format!("# people\n{}\nben:old\n", line("anna")));
        let added = replace(old, "carl", Some(&kept)).unwrap();
        assert_eq!(added, format!("{old}{}\n", line("carl")));
        assert_eq!(replace(old, "ben", None).unwrap(), "# people\nanna:old\n");
        assert_eq!(replace(old, "carl", None), None);
    }

    #[test]
    fn names_that_cannot_stand_in_a_file_are_refused() {
        for name in ["", "a:b", "a\nb", " a", "#a"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("anna maria").is_ok());
    }
}
