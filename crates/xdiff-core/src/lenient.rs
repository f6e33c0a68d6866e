//! Reading other people's configuration files.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Error, Result};

/// `base` with those of its fields replaced that a JSON object has. Other keys of the object are
/// left alone, and a null keeps the field as it is.
///
/// # Errors
/// [`Error::Config`] when `json` is not an object, or naming the key whose value does not fit.
pub(crate) fn overlay<T: Serialize + DeserializeOwned>(base: &T, json: &Value) -> Result<T> {
    let fail = |reason: String| Error::config("config", reason);
    let Value::Object(given) = json else {
        return Err(fail("is not a JSON object".to_owned()));
    };
    let mut fields = serde_json::to_value(base).map_err(|e| fail(e.to_string()))?;
    let mut built = read(&fields).map_err(|e| fail(e.to_string()))?;
    for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
        if let Some(field) = fields.get_mut(key) {
            *field = value.clone();
            built = read(&fields).map_err(|e| fail(format!("`{key}` is {value}: {e}")))?;
        }
    }
    Ok(built)
}

fn read<T: DeserializeOwned>(fields: &Value) -> serde_json::Result<T> {
    T::deserialize(fields)
}

/// Refuses a key whose value asks for something that is not built, so that it is not passed over
/// in silence.
pub(crate) fn only(json: &Value, key: &'static str, supported: &[Value]) -> Result<()> {
    match json.get(key) {
        Some(value) if !value.is_null() && !supported.contains(value) => {
            let list: Vec<String> = supported.iter().map(Value::to_string).collect();
            let hint = if list.is_empty() {
                "leave it out".to_owned()
            } else {
                format!("supported: {}", list.join(", "))
            };
            Err(Error::config(key, format!("is {value}; {hint}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schedule::ScheduleConfig;

    #[test]
    fn unknown_keys_and_nulls_are_passed_over() {
        let json = json!({"beta_end": 0.5, "trained_betas": null, "beta_start": null, "_class_name": "X"});
        let got = overlay(&ScheduleConfig::default(), &json).unwrap();
        assert_eq!(got, ScheduleConfig { beta_end: 0.5, ..Default::default() });
    }

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        for json in [json!({"beta_end": "high"}), json!({"beta_schedule": "wavy"}), json!([1])] {
            let text = overlay(&ScheduleConfig::default(), &json).unwrap_err().to_string();
            let key = json.as_object().and_then(|o| o.keys().next().cloned()).unwrap_or("object".to_owned());
            assert!(text.contains(&key), "{text}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused() {
        let json = json!({"order": 3});
        assert!(only(&json, "order", &[json!(1), json!(2)]).is_err());
        assert!(only(&json, "kind", &[]).is_ok());
    }
}
