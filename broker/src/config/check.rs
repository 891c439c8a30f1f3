//! Finds settings by name, and checks values.

use super::table::{BROKER, GROUP, Kind, Setting, TOPIC, TopicSetting};

/// The broker setting `name`.
pub fn broker_setting(name: &str) -> Option<&'static Setting> {
    BROKER.iter().find(|s| s.name == name)
}

/// The topic setting `name`.
pub fn topic_setting(name: &str) -> Option<&'static TopicSetting> {
    TOPIC.iter().find(|s| s.name == name)
}

/// The group setting `name`.
pub fn group_setting(name: &str) -> Option<&'static TopicSetting> {
    GROUP.iter().find(|s| s.name == name)
}

/// Why `value` is not one of `kind`, if it is not.
pub fn check(kind: Kind, value: &str) -> Result<(), String> {
    match kind {
        Kind::Text => Ok(()),
        Kind::Bool => match value {
            "true" | "false" => Ok(()),
            _ => Err("must be true or false".to_owned()),
        },
        Kind::Int(min, max) => match value.trim().parse::<i64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(()),
            Ok(_) => Err(format!("must be between {min} and {max}")),
            Err(_) => Err("must be a whole number".to_owned()),
        },
        Kind::Double => match value.trim().parse::<f64>() {
            Ok(n) if (0.0..=1.0).contains(&n) => Ok(()),
            _ => Err("must be a number between 0 and 1".to_owned()),
        },
        Kind::Number => match value.trim().parse::<f64>() {
            Ok(n) if n > 0.0 => Ok(()),
            _ => Err("must be a number above 0".to_owned()),
        },
        Kind::Word(words) if words.contains(&value) => Ok(()),
        Kind::Word(words) => Err(format!("must be {}", words.join(" or "))),
        Kind::Words(words) => {
            let all_known = value.split(',').all(|w| words.contains(&w.trim()));
            if all_known {
                Ok(())
            } else {
                Err(format!("must be any of {}", words.join(", ")))
            }
        }
    }
}

/// The known name most like `name`, for error messages.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::levenshtein(name, k), k))
        .min()
        .filter(|(distance, _)| *distance <= name.len().max(4) / 2)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_names_sorted() {
        for s in BROKER {
            assert_eq!(check(s.kind, s.default), Ok(()), "{}", s.name);
        }
        for s in TOPIC {
            assert_eq!(check(s.kind, s.default), Ok(()), "{}", s.name);
            if let Some(broker) = s.broker {
                let broker = broker_setting(broker).expect("broker default exists");
                assert_eq!(broker.default, s.default, "{}", s.name);
            }
        }
        for s in GROUP {
            let broker = s.broker.and_then(broker_setting).expect("broker default");
            assert_eq!(broker.default, s.default, "{}", s.name);
        }
        assert!(BROKER.is_sorted_by_key(|s| s.name));
        assert!(TOPIC.is_sorted_by_key(|s| s.name));
    }

    #[test]
    fn nearest_name_is_found() {
        let names = || BROKER.iter().map(|s| s.name);
        assert_eq!(nearest("brokerid", names()), Some("broker.id"));
        assert_eq!(
            nearest("log.segment.byte", names()),
            Some("log.segment.bytes")
        );
        assert_eq!(nearest("zzz", names()), None);
    }
}
