//! The words of the control socket: one JSON object a line, both ways.
//!
//! A request names its `version` and its `command`; the other keys are the command's. What comes back are lines of rows,
//! then one that says `end` or `error`. Keys may be added to rows without a new version; requests with unknown keys are
//! refused, so that a typing mistake cannot hide.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version that is spoken here.
pub(crate) const VERSION: u64 = 1;

/// Bytes of a request, without its line end. Two texts of 64 KiB, the longest that MQTT has, fit with room for escapes.
pub(crate) const REQUEST_SIZE_MAX: usize = 256 * 1024;

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// List clients.
    Clients(ClientsRequest),
    /// List subscriptions.
    Subscriptions(SubscriptionsRequest),
    /// List retained messages.
    Retained(RetainedRequest),
    /// Close a client's connection.
    Kick(KickRequest),
    /// Tell who would get a message.
    Explain(ExplainRequest),
    /// Read the configuration again.
    Reload(ReloadRequest),
    /// Make a cut through the logs, for a copy of them.
    Backup(BackupRequest),
    /// List who is banned.
    Bans(BansRequest),
    /// Ban somebody.
    Ban(BanRequest),
    /// Lift a ban.
    Unban(UnbanRequest),
}

/// See [`Request::Clients`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClientsRequest {
    /// Rows wanted; absent or 0: all.
    pub(crate) limit: u64,
    /// Where an earlier list ended.
    pub(crate) after: Option<String>,
    /// With exactly this id.
    pub(crate) client_id: Option<String>,
    /// With an id that begins with this.
    pub(crate) prefix: Option<String>,
    /// With a connection, or without.
    pub(crate) connected: Option<bool>,
    /// Connected from this IP address.
    pub(crate) address: Option<std::net::IpAddr>,
}

/// See [`Request::Subscriptions`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SubscriptionsRequest {
    /// Rows wanted; absent or 0: all.
    pub(crate) limit: u64,
    /// Where an earlier list ended.
    pub(crate) after: Option<String>,
    /// Of this client.
    pub(crate) client_id: Option<String>,
    /// To exactly this filter.
    pub(crate) filter: Option<String>,
}

/// See [`Request::Retained`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetainedRequest {
    /// Rows wanted; absent or 0: all.
    pub(crate) limit: u64,
    /// Where an earlier list ended.
    pub(crate) after: Option<String>,
    /// Whose topics match this filter; absent: all but the broker's own, below `$SYS`.
    pub(crate) filter: Option<String>,
}

/// See [`Request::Kick`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KickRequest {
    /// Whose connection.
    pub(crate) client_id: String,
}

/// See [`Request::Explain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainRequest {
    /// A Topic Name.
    pub(crate) topic: String,
    /// The publisher, to count the hops from its home shard, and to say what it may do with the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    /// The user name of a publisher that has no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
}

/// See [`Request::Reload`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ReloadRequest {
    /// Only tell what would change.
    pub(crate) dry_run: bool,
    /// A file to read instead of the broker's own; only for a dry run.
    pub(crate) config: Option<std::path::PathBuf>,
    /// What stands in that file, where the asker has read it: the broker need not reach it then.
    pub(crate) text: Option<String>,
}

/// See [`Request::Backup`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupRequest {}

/// See [`Request::Bans`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BansRequest {}

/// See [`Request::Ban`]: a client or an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BanRequest {
    pub(crate) client_id: Option<String>,
    pub(crate) address: Option<std::net::IpAddr>,
    /// How long; absent: until unbanned.
    pub(crate) seconds: Option<u64>,
}

/// See [`Request::Unban`]: a client or an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UnbanRequest {
    pub(crate) client_id: Option<String>,
    pub(crate) address: Option<std::net::IpAddr>,
}

/// Somebody who is, or was, banned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Banned {
    /// `null`: an address is.
    pub(crate) client_id: Option<String>,
    /// `null`: a client is.
    pub(crate) address: Option<std::net::IpAddr>,
    /// That are left; `null`: until unbanned.
    pub(crate) seconds: Option<u64>,
    pub(crate) cause: String,
}

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// What the answer to it says.
    pub(crate) fn read(line: &[u8]) -> Result<Self, ErrorLine> {
        let usage = |message: String| ErrorLine { code: ErrorCode::Usage, message };
        let mut keys: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
            usage(format!(
                "not a request ({error}); send one JSON object a line, such as {EXAMPLE}"
            ))
        })?;
        match keys.remove("version") {
            Some(Value::Number(version)) if version.as_u64() == Some(VERSION) => {}
            other => {
                let found = other.map_or("none".to_owned(), |version| version.to_string());
                let message =
                    format!("version {found} is not spoken here; send \"version\":{VERSION}");
                return Err(ErrorLine { code: ErrorCode::Version, message });
            }
        }
        let command = match keys.remove("command") {
            Some(Value::String(command)) => command,
            _ => return Err(usage(format!("no command; send one such as {EXAMPLE}"))),
        };
        fn rest<T: serde::de::DeserializeOwned>(
            command: &str,
            keys: Map<String, Value>,
        ) -> Result<T, ErrorLine> {
            serde_json::from_value(Value::Object(keys)).map_err(|error| ErrorLine {
                code: ErrorCode::Usage,
                message: format!("{command}: {error}"),
            })
        }
        Ok(match &*command {
            "clients" => Self::Clients(rest(&command, keys)?),
            "subscriptions" => Self::Subscriptions(rest(&command, keys)?),
            "retained" => Self::Retained(rest(&command, keys)?),
            "kick" => Self::Kick(rest(&command, keys)?),
            "explain" => Self::Explain(rest(&command, keys)?),
            "reload" => match rest::<ReloadRequest>(&command, keys)? {
                ReloadRequest { dry_run: false, config: Some(_), .. } => {
                    return Err(usage("reload: config is for a dry_run only".into()));
                }
                ReloadRequest { config: None, text: Some(_), .. } => {
                    return Err(usage("reload: text is that of a config".into()));
                }
                request => Self::Reload(request),
            },
            "backup" => Self::Backup(rest(&command, keys)?),
            "bans" => Self::Bans(rest(&command, keys)?),
            "ban" => match rest::<BanRequest>(&command, keys)? {
                request if request.client_id.is_some() == request.address.is_some() => {
                    return Err(usage("ban: name a client_id or an address".into()));
                }
                request => Self::Ban(request),
            },
            "unban" => match rest::<UnbanRequest>(&command, keys)? {
                request if request.client_id.is_some() == request.address.is_some() => {
                    return Err(usage("unban: name a client_id or an address".into()));
                }
                request => Self::Unban(request),
            },
            _ => {
                return Err(ErrorLine {
                    code: ErrorCode::UnknownCommand,
                    message: format!(
                        "no command `{}`; there are clients, subscriptions, retained, kick, \
                         explain, reload, backup, bans, ban and unban",
                        command.chars().take(40).collect::<String>()
                    ),
                });
            }
        })
    }

    /// The line for this request, with its end.
    pub(crate) fn to_line(&self) -> String {
        let (command, keys) = match self {
            Self::Clients(keys) => ("clients", serde_json::to_value(keys)),
            Self::Subscriptions(keys) => ("subscriptions", serde_json::to_value(keys)),
            Self::Retained(keys) => ("retained", serde_json::to_value(keys)),
            Self::Kick(keys) => ("kick", serde_json::to_value(keys)),
            Self::Explain(keys) => ("explain", serde_json::to_value(keys)),
            Self::Reload(keys) => ("reload", serde_json::to_value(keys)),
            Self::Backup(keys) => ("backup", serde_json::to_value(keys)),
            Self::Bans(keys) => ("bans", serde_json::to_value(keys)),
            Self::Ban(keys) => ("ban", serde_json::to_value(keys)),
            Self::Unban(keys) => ("unban", serde_json::to_value(keys)),
        };
        let mut line = Map::new();
        line.insert("version".into(), VERSION.into());
        line.insert("command".into(), command.into());
        if let Ok(Value::Object(keys)) = keys {
            line.extend(keys.into_iter().filter(|(_, value)| !value.is_null()));
        }
        format!("{}\n", Value::Object(line))
    }
}

const EXAMPLE: &str = r#"{"version":1,"command":"clients","limit":10}"#;

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// A client.
    Client(Client),
    /// A subscription.
    Subscription(Subscription),
    /// A retained message.
    Retained(Retained),
    /// What became of a client that was to be kicked.
    Kicked(Kicked),
    /// Who would get a message.
    Explained(Box<Explained>),
    /// Somebody who is banned.
    Banned(Banned),
    /// Somebody who is not banned any more.
    Unbanned(Banned),
    /// What a reload has changed, or would change.
    Reloaded(Box<crate::reload::Outcome>),
    /// A cut through the logs.
    Cut(Cut),
    /// The broker is still looking: sent every few seconds in which there is no row.
    Looking {
        /// Where.
        shard: u16,
    },
    /// That was all.
    End(End),
    /// There is no answer, or no more of it.
    Error(ErrorLine),
}

/// The last line of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Rows before this line.
    pub(crate) rows: u64,
    /// `after` of the request that gets the rest; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorLine {
    /// For programs.
    pub(crate) code: ErrorCode,
    /// For people: one sentence.
    pub(crate) message: String,
}

/// What kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorCode {
    /// The request is not one.
    Usage,
    /// There is no such command.
    UnknownCommand,
    /// The request's version is not spoken.
    Version,
    /// The request is too large. The connection is closed.
    TooLarge,
    /// A shard, or the control socket, has too much to do: try again later.
    Busy,
    /// The broker stops.
    Stopping,
    /// What was to be changed cannot be: nothing has changed. One problem a line.
    Refused,
    /// Nothing is kept: there is no data directory.
    NotKept,
}

/// A cut through the logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    /// The data directory.
    pub(crate) directory: std::path::PathBuf,
    /// Of each shard's log, the sequence of the last record that belongs to the cut.
    pub(crate) last: Vec<u64>,
    /// How long nothing of it is cleaned away, in milliseconds since the request.
    pub(crate) hold_ms: u64,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) client_id: String,
    pub(crate) connected: bool,
    /// IP address and port; `null` without a connection, like the four below.
    pub(crate) address: Option<std::net::SocketAddr>,
    /// The name of the listener.
    pub(crate) listener: Option<String>,
    /// `3.1`, `3.1.1` or `5.0`.
    pub(crate) version: Option<String>,
    /// In force; 0 is off.
    pub(crate) keep_alive_seconds: Option<u16>,
    /// Bytes for it that its socket has not taken.
    pub(crate) output_bytes: Option<usize>,
    /// How long the session outlives its connection; `null`: it never ends.
    pub(crate) session_expiry_interval_seconds: Option<u32>,
    pub(crate) subscriptions: usize,
    /// Messages that wait for it.
    pub(crate) queued: usize,
    /// Messages that it has not acknowledged.
    pub(crate) in_flight: usize,
    pub(crate) will: bool,
    /// Since it connected, or was last connected.
    pub(crate) since_seconds: u32,
    /// Its home.
    pub(crate) shard: u16,
}

/// One subscription: a client's, or a shared one with all of its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subscription {
    /// As it was subscribed to, with `$share/NAME/`.
    pub(crate) filter: String,
    /// Whose; `null` for a shared subscription as a whole.
    pub(crate) client_id: Option<String>,
    pub(crate) connected: Option<bool>,
    pub(crate) qos: Option<u8>,
    pub(crate) no_local: Option<bool>,
    pub(crate) retain_as_published: Option<bool>,
    pub(crate) subscription_identifier: Option<u32>,
    /// Of a shared subscription as a whole; `null` else, like the two below.
    pub(crate) members: Option<usize>,
    /// Members with a connection.
    pub(crate) online: Option<usize>,
    /// Messages that no member can take.
    pub(crate) backlog: Option<usize>,
    /// Where it is matched.
    pub(crate) shard: u16,
}

/// One retained message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retained {
    pub(crate) topic: String,
    pub(crate) payload_bytes: usize,
    pub(crate) qos: u8,
    pub(crate) age_seconds: u64,
    /// Until it expires; `null`: never.
    pub(crate) expiry_interval_seconds: Option<u32>,
    /// Who keeps it.
    pub(crate) shard: u16,
}

/// What became of a client that was to be kicked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kicked {
    pub(crate) client_id: String,
    pub(crate) outcome: Outcome,
}

/// See [`Kicked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Its connection is closed; its will is published, its session stays for as long as it asked.
    Closed,
    /// It has a session and no connection.
    NotConnected,
    /// There is no such client.
    Unknown,
}

/// Who would get a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Explained {
    pub(crate) topic: String,
    /// Subscriptions of clients that match: one for each client and filter.
    pub(crate) subscriptions: usize,
    /// The first of them; all, when `complete`.
    pub(crate) receivers: Vec<Subscription>,
    /// Shared subscriptions that match: each gives it to one of its members.
    pub(crate) groups: Vec<Group>,
    /// Whether `receivers` and `groups` name all.
    pub(crate) complete: bool,
    /// The retained message of this topic.
    pub(crate) retained: Option<Retained>,
    /// Which shard keeps it, or would.
    pub(crate) keeper: u16,
    pub(crate) shards: Vec<Interest>,
    /// Rings that a message crosses, at least and at most, by where its publisher is at home. One more for each shared
    /// subscription whose member lives elsewhere, and one if it is retained and its keeper is not among those shards.
    pub(crate) hops_min: usize,
    pub(crate) hops_max: usize,
    /// The publisher's home, if the request names one; both numbers above are counted from it.
    pub(crate) from: Option<u16>,
    /// What the publisher may do with the topic, if the request names one.
    #[serde(default)]
    pub(crate) rights: Option<PublisherRights>,
    /// Clients among the receivers that may not receive it.
    #[serde(default)]
    pub(crate) denied: Vec<Denied>,
}

/// What a client may do with a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublisherRights {
    pub(crate) client_id: String,
    pub(crate) user: Option<String>,
    /// It has no session: what the ACL file says about its names.
    pub(crate) absent: bool,
    pub(crate) publish: Decision,
    pub(crate) subscribe: Decision,
    pub(crate) receive: Decision,
}

/// A yes or a no, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    /// `FILE:LINE: RULE`, or a sentence.
    pub(crate) why: String,
}

/// A client that has subscribed to more than it may receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Denied {
    pub(crate) client_id: String,
    pub(crate) why: String,
}

/// A shared subscription and who is next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) filter: String,
    pub(crate) members: usize,
    pub(crate) online: usize,
    pub(crate) backlog: usize,
    /// Which shard chooses.
    pub(crate) shard: u16,
    /// Who would get the next message of QoS 1; `null`: it would wait.
    pub(crate) next_client_id: Option<String>,
    pub(crate) next_shard: Option<u16>,
}

/// What one shard has to do with a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interest {
    pub(crate) shard: u16,
    /// The interest map sends messages there.
    pub(crate) named: bool,
    /// Filters that match there. None although it is named: a false positive, which costs a hop.
    pub(crate) filters: usize,
    pub(crate) subscriptions: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back() {
        for request in [
            Request::Clients(ClientsRequest::default()),
            Request::Clients(ClientsRequest {
                limit: 7,
                after: Some("1.s9".into()),
                client_id: Some("a \"b\"\n".into()),
                prefix: Some("ü".into()),
                connected: Some(false),
                address: Some([127, 0, 0, 1].into()),
            }),
            Request::Subscriptions(SubscriptionsRequest {
                filter: Some("a/#".into()),
                ..Default::default()
            }),
            Request::Retained(RetainedRequest { limit: u64::MAX, ..Default::default() }),
            Request::Kick(KickRequest { client_id: String::new() }),
            Request::Explain(ExplainRequest { topic: "t".into(), from: None, user: None }),
            Request::Reload(ReloadRequest::default()),
            Request::Bans(BansRequest {}),
            Request::Ban(BanRequest {
                client_id: Some("c".into()),
                address: None,
                seconds: Some(7),
            }),
            Request::Unban(UnbanRequest { client_id: None, address: Some([127, 0, 0, 1].into()) }),
            Request::Reload(ReloadRequest {
                dry_run: true,
                config: Some("/a".into()),
                text: Some("shards: 1".into()),
            }),
            Request::Backup(BackupRequest {}),
        ] {
            let line = request.to_line();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(Request::read(line.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn what_is_no_request_is_told_what_is_wrong() {
        for (line, code, part) in [
            ("", ErrorCode::Usage, "not a request (EOF"),
            ("hello", ErrorCode::Usage, "send one JSON object a line, such as {\"version\":1,"),
            ("[1]", ErrorCode::Usage, "not a request"),
            ("{}", ErrorCode::Version, "version none is not spoken here; send \"version\":1"),
            (r#"{"version":2}"#, ErrorCode::Version, "version 2 is not spoken here"),
            (r#"{"version":1}"#, ErrorCode::Usage, "no command; send one such as"),
            (r#"{"version":1,"command":7}"#, ErrorCode::Usage, "no command"),
            (
                r#"{"version":1,"command":"dance"}"#,
                ErrorCode::UnknownCommand,
                "no command `dance`; there are clients, subscriptions, retained, kick, explain",
            ),
            (
                r#"{"version":1,"command":"clients","limitt":1}"#,
                ErrorCode::Usage,
                "clients: unknown field `limitt`, expected one of `limit`, `after`, `client_id`",
            ),
            (
                r#"{"version":1,"command":"clients","limit":-1}"#,
                ErrorCode::Usage,
                "clients: invalid value: integer `-1`",
            ),
            (
                r#"{"version":1,"command":"kick"}"#,
                ErrorCode::Usage,
                "kick: missing field `client_id`",
            ),
            (
                r#"{"version":1,"command":"reload","config":"/a"}"#,
                ErrorCode::Usage,
                "config is for a dry_run only",
            ),
            (
                r#"{"version":1,"command":"ban"}"#,
                ErrorCode::Usage,
                "name a client_id or an address",
            ),
        ] {
            let error = Request::read(line.as_bytes()).expect_err(line);
            assert_eq!(error.code, code, "{line}");
            assert!(error.message.contains(part), "{line}: {}", error.message);
        }
    }

    #[test]
    fn lines_say_what_they_are() {
        let end = Line::End(End { rows: 3, next: None });
        assert_eq!(serde_json::to_string(&end).expect("plain data"), r#"{"end":{"rows":3}}"#);
        let error = ErrorLine { code: ErrorCode::UnknownCommand, message: "no".into() };
        assert_eq!(
            serde_json::to_string(&Line::Error(error)).expect("plain data"),
            r#"{"error":{"code":"unknown_command","message":"no"}}"#
        );
    }
}
