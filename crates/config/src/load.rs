//! A YAML file to a [`Config`], over the defaults.
//!
//! The reader is serde-saphyr (see `docs/decisions/0001-yaml-reader.md`). YAML offers more than a
//! configuration needs; what invites mistakes is switched off: `yes` and `on` are no booleans, a
//! key may stand only once, merge keys and unknown tags are refused.

use std::{fs::File, io::Read, path::Path};

use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, Options};

use crate::{
    error::ConfigError,
    model::Config,
    positions::{Origin, Positions},
    validate::Problem,
};

/// Bytes of a configuration file. 1,000 times the commented default file's keys fit.
pub const FILE_SIZE_MAX: u64 = 1024 * 1024;

/// `configs/default.yaml`: every key at its default, with comments.
pub const DEFAULT_FILE: &str = include_str!("../../../configs/default.yaml");

/// Settings as read, and who set each: enough to say where a [`Problem`] comes from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings: what the file says, over the defaults.
    pub config: Config,
    /// The file's name; `None` when there was no file.
    source_name: Option<String>,
    positions: Positions,
    /// Keys that the command line set over the file, each with its option.
    flags: Vec<(&'static str, &'static str)>,
}

impl Loaded {
    /// The default settings, without a file.
    pub fn defaults() -> Self {
        Self {
            config: Config::default(),
            source_name: None,
            positions: Positions::default(),
            flags: Vec::new(),
        }
    }

    /// The file's name, as the caller gave it; `None` when there was no file.
    pub fn source_name(&self) -> Option<&str> {
        self.source_name.as_deref()
    }

    /// Notes that the option `flag` has set `key` over what the file says.
    pub fn set_by_flag(&mut self, key: &'static str, flag: &'static str) {
        self.flags.push((key, flag));
    }

    /// Who set `key`: an option, else the line of the file that holds it or the nearest key above.
    pub fn origin(&self, key: &str) -> Origin {
        let under = |parent: &str| {
            key.strip_prefix(parent)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if let Some((_, flag)) = self.flags.iter().find(|(parent, _)| under(parent)) {
            return Origin::Flag(flag);
        }
        match self.positions.key(key) {
            Some(position) => Origin::File { line: position.line, column: position.column },
            None => Origin::Default,
        }
    }

    /// All problems, each as one sentence that names its place: `midge.yaml:3:5: key: …` or
    /// `--shards: …`. Empty: the settings are sound.
    pub fn problems(&self) -> Vec<String> {
        self.config.validate().err().unwrap_or_default().iter().map(|p| self.describe(p)).collect()
    }

    /// A problem that only the program can find, with its place: the content of a file that `key` names, for instance.
    pub fn problem(&self, key: &str, message: &str) -> String {
        self.describe(&Problem { key: key.into(), message: message.into() })
    }

    fn describe(&self, problem: &Problem) -> String {
        match (self.origin(&problem.key), &self.source_name) {
            (Origin::Flag(flag), _) => format!("{flag}: {}", problem.message),
            (Origin::File { line, column }, Some(name)) => {
                format!("{name}:{line}:{column}: {problem}")
            }
            (_, Some(name)) => format!("{name}: {problem}"),
            (_, None) => problem.to_string(),
        }
    }
}

/// Reads the file at `path`.
///
/// # Errors
/// When it cannot be read, is larger than [`FILE_SIZE_MAX`], or [`parse`] refuses it.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let name = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        let reason = error.to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
        ConfigError::of_file(
            &name,
            format!("cannot be read: {reason}; check the path and its rights"),
        )
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    File::open(path)
        .and_then(|file| file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        let message = "larger than 1 MiB, so no configuration; check the path".into();
        return Err(ConfigError::of_file(&name, message));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let message = format!("line {} is not UTF-8; save the file as UTF-8", line + 1);
        ConfigError::of_file(&name, message)
    })?;
    parse(&text, &name)
}

/// Reads `text`, which errors call `source_name`. An empty text gives the defaults.
///
/// # Errors
/// When `text` is not YAML, or holds a key that is no setting or a value that is none of its key.
/// Ranges and relations are not checked here: see [`Config::validate`].
pub fn parse(text: &str, source_name: &str) -> Result<Loaded, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let config = serde_saphyr::from_str_with_options::<Option<Config>>(text, options())
        .map_err(|error| ConfigError::from_yaml(&error, source_name, text))?;
    Ok(Loaded {
        config: config.unwrap_or_default(),
        source_name: Some(source_name.into()),
        positions: Positions::of(text),
        flags: Vec::new(),
    })
}

/// Strict YAML under a budget: 64 listeners with every key are 1,500 events, 3 levels deep.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 100_000,
            max_nodes: 50_000,
            max_depth: 16,
            flow_nesting_limit: 16,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 10_000,
            max_recorded_anchor_bytes: 1024 * 1024,
            max_total_scalar_bytes: 1024 * 1024,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}
