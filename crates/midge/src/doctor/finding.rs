//! What a check says.

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What it is about, by the names of the tuning scripts' subjects where there is one.
    pub(super) subject: &'static str,
    /// What was looked at.
    pub(super) name: &'static str,
    /// How bad it is.
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// What is needed; empty where nothing more is.
    pub(super) needed: String,
    /// Why.
    pub(super) why: String,
    /// Commands that mend it, any one of them; the one to try first stands first.
    pub(super) mend: Vec<String>,
}

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It stops the connections that were asked for.
    Stops {
        /// How many connections there can be in spite of it.
        possible: u64,
    },
    /// They come to be, but slower, or at a risk.
    Hurts,
    /// It cannot be seen from here.
    Unknown,
    /// As it should be.
    Fine,
}

impl Verdict {
    /// For programs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Stops { .. } => "stops",
            Self::Hurts => "hurts",
            Self::Unknown => "unknown",
            Self::Fine => "fine",
        }
    }
}

impl Finding {
    /// As it should be.
    pub(super) fn fine(
        subject: &'static str,
        name: &'static str,
        found: impl Into<String>,
    ) -> Self {
        Self {
            subject,
            name,
            verdict: Verdict::Fine,
            found: found.into(),
            needed: String::new(),
            why: String::new(),
            mend: Vec::new(),
        }
    }

    /// Cannot be seen from here.
    pub(super) fn unknown(subject: &'static str, name: &'static str, file: &str) -> Self {
        Self {
            verdict: Verdict::Unknown,
            why: format!("{file} cannot be read here, as in some containers."),
            ..Self::fine(subject, name, "unknown")
        }
    }

    /// The same with a worse verdict, what is needed and why.
    pub(super) fn bad(
        self,
        verdict: Verdict,
        needed: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self { verdict, needed: needed.into(), why: why.into(), ..self }
    }

    /// The same with a command that mends it; a further one is an alternative.
    pub(super) fn mended_by(mut self, command: impl Into<String>) -> Self {
        self.mend.push(command.into());
        self
    }
}
