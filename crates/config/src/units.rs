//! Values with a unit: byte sizes, periods, expiries, and settings that may be `auto`.
//!
//! Each reads from a YAML scalar and prints the way a person would write it, so that an error can
//! say `1 MiB` instead of `1048576`. Only whole numbers are accepted: `1.5MiB` can be written
//! `1536KiB`, and nobody has to know how it is rounded.

use std::{fmt, time::Duration};

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// The units of a size. Powers of 1,024 have the `i`, powers of 1,000 do not.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// `kibibytes` × 1,024 bytes.
    pub const fn from_kibibytes(kibibytes: u64) -> Self {
        Self(kibibytes * 1024)
    }

    /// `mebibytes` × 1,048,576 bytes.
    pub const fn from_mebibytes(mebibytes: u64) -> Self {
        Self(mebibytes * 1024 * 1024)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl std::str::FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split_number(text)?;
        let factor = match unit {
            "" => 1,
            unit => find_unit(&SIZE_UNITS, unit).ok_or(UnitError::Unit)?,
        };
        number.checked_mul(factor).map(Self).ok_or(UnitError::TooLarge)
    }
}

/// The largest unit of 1,024 that leaves a whole number: `1 MiB`, `1500 KiB`, `1000001 bytes`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((unit, factor)) => write!(f, "{} {unit}", self.0 / factor),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// A length of time, of millisecond grain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// The units of a period, in milliseconds. A month or a year is no fixed time, so there is none.
const PERIOD_UNITS: [(&str, u64); 6] = [
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

impl Period {
    /// `milliseconds` milliseconds.
    pub const fn from_milliseconds(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// `seconds` seconds.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// `days` × 24 hours.
    pub const fn from_days(days: u64) -> Self {
        Self(Duration::from_secs(days * 24 * 3600))
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whole seconds; a remainder is cut off.
    pub const fn seconds(self) -> u64 {
        self.0.as_secs()
    }

    /// Whether the period has no fraction of a second.
    pub const fn is_whole_seconds(self) -> bool {
        self.0.subsec_nanos() == 0
    }
}

impl std::str::FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split_number(text)?;
        let factor = match unit {
            "" => 1000,
            unit => find_unit(&PERIOD_UNITS, unit).ok_or(UnitError::Unit)?,
        };
        number.checked_mul(factor).map(Self::from_milliseconds).ok_or(UnitError::TooLarge)
    }
}

/// The largest unit that leaves a whole number: `7d`, `90m`, `1500ms`. Reads back as the same.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        // Weeks are left out: `7d` is plainer than `1w`.
        let unit = PERIOD_UNITS[1..].iter().find(|(_, factor)| {
            milliseconds != 0 && milliseconds.is_multiple_of(u128::from(*factor))
        });
        match unit {
            Some((unit, factor)) => write!(f, "{}{unit}", milliseconds / u128::from(*factor)),
            None => write!(f, "0s"),
        }
    }
}

/// How long a session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expiry {
    /// The session ends this long after its connection; zero: with it.
    After(Period),
    /// The session does not expire.
    Never,
}

impl Expiry {
    /// As a Session Expiry Interval: seconds, `0xFFFF_FFFF` when it never expires. Periods too
    /// long for the field are cut to its largest number that still expires.
    pub fn session_expiry_interval_seconds(self) -> u32 {
        match self {
            Self::Never => u32::MAX,
            Self::After(period) => u32::try_from(period.seconds())
                .map_or(u32::MAX - 1, |seconds| seconds.min(u32::MAX - 1)),
        }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::After(period) => period.fmt(f),
        }
    }
}

/// A number, or `auto`: the program chooses when it knows the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto<T> {
    /// Chosen by the program.
    #[default]
    Auto,
    /// Chosen by the operator.
    Value(T),
}

impl<T: Copy> Auto<T> {
    /// The operator's value, or `choice` when it is left to the program.
    pub fn unwrap_or_else(self, choice: impl FnOnce() -> T) -> T {
        match self {
            Self::Auto => choice(),
            Self::Value(value) => value,
        }
    }
}

/// Why a text is no size or period. Says what is wrong with the text, not where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// It does not start with a whole number.
    Number,
    /// The unit is not one we know.
    Unit,
    /// It is larger than any setting could be.
    TooLarge,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "not a whole number with a unit",
            Self::Unit => "unknown unit",
            Self::TooLarge => "too large",
        })
    }
}

impl std::error::Error for UnitError {}

/// Splits `512 KiB` into 512 and `KiB`. The number is decimal digits alone: no sign, no fraction.
fn split_number(text: &str) -> Result<(u64, &str), UnitError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || unit.starts_with(['.', ',', '_']) {
        return Err(UnitError::Number);
    }
    Ok((number.parse().map_err(|_| UnitError::TooLarge)?, unit.trim_start()))
}

fn find_unit(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

const SIZE_EXPECTED: &str = "a size such as 64KiB, 1MiB, 2MB or a number of bytes";
const PERIOD_EXPECTED: &str = "a time such as 500ms, 10s, 5m, 2h, 7d or a number of seconds";
const EXPIRY_EXPECTED: &str = "a time such as 30s, 2h, 7d, a number of seconds, or never";

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: SIZE_EXPECTED,
            number: |bytes| Some(Self(bytes)),
            text: |text| text.parse().ok(),
        })
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: PERIOD_EXPECTED,
            number: period_from_seconds,
            text: |text| text.parse().ok(),
        })
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: EXPIRY_EXPECTED,
            number: |seconds| period_from_seconds(seconds).map(Self::After),
            text: |text| match text {
                "never" => Some(Self::Never),
                text => text.parse().ok().map(Self::After),
            },
        })
    }
}

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: "auto or a whole number",
            number: |number| T::try_from(number).ok().map(Self::Value),
            text: |text| match text {
                "auto" => Some(Self::Auto),
                text => T::try_from(text.parse().ok()?).ok().map(Self::Value),
            },
        })
    }
}

/// A yes or a no that may be left to the program. Written `true`, `false` or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Left to the program.
    #[default]
    Auto,
    /// Yes.
    Yes,
    /// No.
    No,
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChoiceVisitor;

        impl Visitor<'_> for ChoiceVisitor {
            type Value = Choice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or auto")
            }

            fn visit_bool<E: Error>(self, yes: bool) -> Result<Choice, E> {
                Ok(if yes { Choice::Yes } else { Choice::No })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Choice, E> {
                match text {
                    "auto" => Ok(Choice::Auto),
                    text => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(ChoiceVisitor)
    }
}

/// The one visitor of all values above: a YAML scalar that is a number or a text.
struct Scalar<T> {
    expected: &'static str,
    number: fn(u64) -> Option<T>,
    text: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.number)(number).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

fn period_from_seconds(seconds: u64) -> Option<Period> {
    // The bound is the one texts have: milliseconds that fit 64 bits.
    seconds.checked_mul(1000).map(Period::from_milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, written) in [
            ("0", 0, "0 bytes"),
            ("1", 1, "1 bytes"),
            ("512B", 512, "512 bytes"),
            ("1KiB", 1024, "1 KiB"),
            ("512 KiB", 512 * 1024, "512 KiB"),
            ("1MiB", 1 << 20, "1 MiB"),
            ("1048577", (1 << 20) + 1, "1048577 bytes"),
            ("2KB", 2000, "2000 bytes"),
            ("2MB", 2_000_000, "2000000 bytes"),
            ("3GB", 3_000_000_000, "3000000000 bytes"),
            ("1GiB", 1 << 30, "1 GiB"),
            ("1TB", 1_000_000_000_000, "976562500 KiB"),
            ("1TiB", 1 << 40, "1 TiB"),
            (" 7 MiB ", 7 << 20, "7 MiB"),
        ] {
            let size = text.parse::<ByteSize>();
            assert_eq!(size, Ok(ByteSize::new(bytes)), "{text}");
            assert_eq!(size.map(|size| size.to_string()), Ok(written.into()), "{text}");
        }
    }

    #[test]
    fn sizes_that_are_none() {
        for (text, error) in [
            ("", UnitError::Number),
            ("MiB", UnitError::Number),
            ("-1", UnitError::Number),
            ("+1", UnitError::Number),
            ("1.5MiB", UnitError::Number),
            ("1,5MiB", UnitError::Number),
            ("1_000", UnitError::Number),
            ("1mib", UnitError::Unit),
            ("1M", UnitError::Unit),
            ("1 MiB per client", UnitError::Unit),
            ("1s", UnitError::Unit),
            ("18446744073709551616", UnitError::TooLarge),
            ("17000000TiB", UnitError::TooLarge),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(error), "{text}");
        }
    }

    #[test]
    fn periods_are_read_and_written() {
        for (text, milliseconds, written) in [
            ("0", 0, "0s"),
            ("0ms", 0, "0s"),
            ("10", 10_000, "10s"),
            ("500ms", 500, "500ms"),
            ("1500ms", 1500, "1500ms"),
            ("90s", 90_000, "90s"),
            ("5m", 300_000, "5m"),
            ("2h", 7_200_000, "2h"),
            ("7d", 604_800_000, "7d"),
            ("2w", 1_209_600_000, "14d"),
        ] {
            let period = text.parse::<Period>();
            assert_eq!(period, Ok(Period::from_milliseconds(milliseconds)), "{text}");
            assert_eq!(period.map(|period| period.to_string()), Ok(written.into()), "{text}");
            // What is written reads back as the same.
            assert_eq!(written.parse(), period, "{text}");
        }
    }

    #[test]
    fn periods_that_are_none() {
        for (text, error) in [
            ("", UnitError::Number),
            ("s", UnitError::Number),
            ("-1s", UnitError::Number),
            ("1.5s", UnitError::Number),
            ("1h30m", UnitError::Unit),
            ("1 month", UnitError::Unit),
            ("1S", UnitError::Unit),
            ("never", UnitError::Number),
            ("18446744073709551615d", UnitError::TooLarge),
        ] {
            assert_eq!(text.parse::<Period>(), Err(error), "{text}");
        }
    }

    #[test]
    fn expiries_become_the_field_of_the_protocol() {
        for (expiry, seconds) in [
            (Expiry::After(Period::default()), 0),
            (Expiry::After(Period::from_days(7)), 604_800),
            (Expiry::After(Period::from_seconds(u64::from(u32::MAX))), u32::MAX - 1),
            (Expiry::Never, u32::MAX),
        ] {
            assert_eq!(expiry.session_expiry_interval_seconds(), seconds, "{expiry}");
        }
    }
}
