//! Files of users and rules: whatever an operator, or whoever got at the files, has written there.

use midge_auth::{AccessRules, KeptPassword, PasswordFile, ScramFile};
use midge_shard::NamePatterns;

/// A file of users. What is accepted is written and read again as the same; what is refused names a line that is there.
///
/// Nothing is hashed: what a file may cost is bounded by the parser, and a fuzzer would do nothing else.
pub fn passwords(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().count();
    match PasswordFile::parse(&text) {
        Ok(file) => {
            assert!(file.len() <= lines);
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let Some((name, _)) = line.split_once(':') else { continue };
                let kept = file.kept(name.trim()).expect("each user of an accepted file is there");
                let again = KeptPassword::parse(&kept.encode()).expect("what we write we read");
                assert_eq!(again.encode(), kept.encode());
            }
        }
        Err(error) => assert!((1..=lines).contains(&error.line), "{error}"),
    }
    if let Err(error) = ScramFile::parse(&text) {
        assert!((1..=lines).contains(&error.line), "{error}");
    }
}

/// A file of rules, and somebody who asks what he may do.
///
/// The first line is his client id, the second his user name (empty: none), the third a topic, the rest is the file.
pub fn access(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(4, '\n');
    let [Some(client_id), Some(user), Some(topic), Some(file)] =
        [parts.next(), parts.next(), parts.next(), parts.next()]
    else {
        return;
    };
    let user = Some(user).filter(|user| !user.is_empty());
    // Names are held to patterns in time that nobody can stretch, and a pattern without signs is for itself.
    let patterns = NamePatterns::new(file.lines().take(8));
    let allowed = patterns.allow(client_id, user);
    let literal = file.lines().take(8).any(|line| line == client_id && !line.contains("%u"));
    assert!(allowed || !literal, "a name that is a pattern of its own");

    let lines = file.lines().count();
    let rules = match AccessRules::parse(file) {
        Ok(rules) => rules,
        Err(error) => return assert!((1..=lines).contains(&error.line), "{error}"),
    };
    let rights = rules.rights(user, client_id, None);
    let (read, write) = (rights.may_read(topic), rights.may_write(topic));
    let subscribe = rights.may_subscribe(topic);
    for decision in [read, write, subscribe] {
        assert!(decision.line().is_none_or(|line| (1..=lines).contains(&line)));
        assert!(
            !decision.allowed || decision.line().is_some(),
            "nothing is allowed without a rule"
        );
    }
    // Whoever may receive a topic may ask for it.
    if read.allowed && !topic.contains(['+', '#']) {
        assert!(subscribe.allowed, "{topic:?} may be received and not asked for");
    }
    // Deciding twice decides the same.
    assert_eq!(rights.may_read(topic), read);
}
