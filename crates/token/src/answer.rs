//! What a service is asked about a client, and what it answers.
//!
//! ```json
//! {"client_id": "c1", "user": "anna", "password": "…", "peer": "192.0.2.1", "common_name": null}
//! ```
//!
//! ```json
//! {"result": "allow", "user": "anna", "superuser": false, "acl": {"publish": ["a"]}, "roles": ["sensor"], "expires_in": 3600}
//! ```
//!
//! `result` is `allow`, `deny`, or `ignore` (the service does not know the client); everything else may be left out. EMQX's
//! names are understood, too: `is_superuser`, and `expire_at` in seconds since 1970. `acl` is described in `rules`.

use midge_auth::{Grant, Login, Verdict};
use serde_json::{Value, json};

use crate::rules::rights;

/// The question.
#[must_use]
pub fn request(login: &Login) -> Vec<u8> {
    let password =
        login.password.as_ref().map(|password| String::from_utf8_lossy(&password.0).into_owned());
    let question = json!({
        "client_id": &*login.client_id,
        "user": login.user.as_deref(),
        "password": password,
        "peer": login.peer.to_string(),
        "common_name": login.common_name.as_deref(),
    });
    question.to_string().into_bytes()
}

/// What the service has said. `None`: nothing that can be understood.
#[must_use]
pub fn verdict(login: &Login, answer: &[u8], now_seconds: u64) -> Option<Verdict> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    match answer.get("result")?.as_str()? {
        "deny" => return Some(Verdict::Refused),
        "ignore" => return Some(Verdict::Unknown),
        "allow" => {}
        _ => return None,
    }
    let flag = |name| match answer.get(name) {
        None | Some(Value::Null) => Some(false),
        Some(value) => value.as_bool(),
    };
    let superuser = flag("superuser")? | flag("is_superuser")?;
    let user = match answer.get("user") {
        None | Some(Value::Null) => login.user.clone(),
        Some(user) => Some(user.as_str().filter(|user| is_name(user))?.into()),
    };
    let given = |name| answer.get(name).filter(|value| !value.is_null());
    let rights = rights(given("acl"), given("roles"), superuser).ok()?;
    let valid_for_seconds = match (given("expires_in"), given("expire_at")) {
        (None, None) => None,
        (Some(seconds), _) => Some(seconds.as_u64()?),
        (None, Some(at)) => Some(at.as_u64()?.saturating_sub(now_seconds)),
    };
    if valid_for_seconds == Some(0) {
        return Some(Verdict::Refused);
    }
    Some(Verdict::Granted(Box::new(Grant { user, rights, valid_for_seconds, ..Grant::default() })))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0') && text.len() <= usize::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use midge_auth::{Authenticator, Secret};

    use super::*;

    fn login() -> Login {
        Login {
            asked: Authenticator::Token,
            listener: 0,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            client_id: "c1".into(),
            user: Some("anna".into()),
            password: Some(Secret::from(&b"pw"[..])),
            common_name: None,
            step: None,
        }
    }

    #[test]
    fn a_question_says_what_the_client_shows() {
        let question: Value = serde_json::from_slice(&request(&login())).unwrap();
        let expected = json!({
            "client_id": "c1", "user": "anna", "password": "pw", "peer": "127.0.0.1",
            "common_name": null,
        });
        assert_eq!(question, expected);
    }

    fn said(answer: &Value) -> Option<Verdict> {
        verdict(&login(), answer.to_string().as_bytes(), 1000)
    }

    #[test]
    fn answers_become_verdicts() {
        assert_eq!(said(&json!({"result": "deny"})), Some(Verdict::Refused));
        assert_eq!(said(&json!({"result": "ignore"})), Some(Verdict::Unknown));
        let Some(Verdict::Granted(grant)) = said(&json!({"result": "allow"})) else { panic!() };
        assert_eq!(
            (grant.user.as_deref(), grant.rights, grant.valid_for_seconds),
            (Some("anna"), None, None)
        );
        let full = json!({
            "result": "allow", "user": "ben", "is_superuser": true, "expire_at": 1060,
            "acl": [{"permission": "allow", "action": "publish", "topic": "a"}], "roles": ["r"],
        });
        let Some(Verdict::Granted(grant)) = said(&full) else { panic!() };
        assert_eq!((grant.user.as_deref(), grant.valid_for_seconds), (Some("ben"), Some(60)));
        let rights = grant.rights.unwrap();
        assert!(
            rights.superuser
                && rights.limited
                && rights.rules.len() == 1
                && rights.roles.len() == 1
        );
        assert_eq!(said(&json!({"result": "allow", "expire_at": 999})), Some(Verdict::Refused));
    }

    #[test]
    fn answers_that_are_none() {
        for answer in [
            json!(null),
            json!({}),
            json!({"result": true}),
            json!({"result": "yes"}),
            json!({"result": "allow", "user": 7}),
            json!({"result": "allow", "user": ""}),
            json!({"result": "allow", "superuser": "yes"}),
            json!({"result": "allow", "acl": {"publsh": []}}),
            json!({"result": "allow", "expires_in": "soon"}),
        ] {
            assert_eq!(said(&answer), None, "{answer}");
        }
        assert_eq!(verdict(&login(), b"<html>", 0), None);
    }
}
