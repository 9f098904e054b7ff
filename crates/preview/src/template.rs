//! A CloudFormation template: its conditions decided, and its intrinsic functions worked out as far as that goes
//! without an account. A reference to a resource stays one.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// What is wrong with the template.
#[derive(Debug, thiserror::Error)]
#[error("cloudformation/edge.yaml: {0}")]
pub struct TemplateError(pub(super) String);

/// A template with its parameters given.
pub(super) struct Template<'a> {
    document: Yaml<'a>,
    /// Parameters that have another value than their default.
    given: &'a [(&'a str, &'a str)],
}

impl<'a> Template<'a> {
    pub(super) fn parse(text: &'a str, given: &'a [(&'a str, &'a str)]) -> Result<Self, TemplateError> {
        let documents = Yaml::load_from_str(text).map_err(|error| TemplateError(error.to_string()))?;
        let document = documents.into_iter().next().ok_or_else(|| TemplateError("the file is empty".to_owned()))?;
        let template = Self { document, given };
        for (name, _) in given {
            template.at(&["Parameters", name])?;
        }
        Ok(template)
    }

    /// The names of the resources of a type.
    pub(super) fn resources(&self, kind: &str) -> Vec<String> {
        let resources = self.at(&["Resources"]).ok().and_then(Yaml::as_mapping);
        let names = resources.into_iter().flat_map(|resources| resources.keys()).filter_map(Yaml::as_str);
        names.filter(|name| self.kind(name) == Some(kind)).map(str::to_owned).collect()
    }

    /// The type of a resource.
    pub(super) fn kind(&self, name: &str) -> Option<&str> {
        self.at(&["Resources", name, "Type"]).ok()?.as_str()
    }

    /// The properties of a resource, worked out.
    pub(super) fn properties(&self, name: &str) -> Result<Value, TemplateError> {
        let properties = self.at(&["Resources", name, "Properties"])?;
        let value = self.value(properties).map_err(|TemplateError(why)| TemplateError(format!("{name}: {why}")))?;
        Ok(value.unwrap_or_default())
    }

    fn at(&self, path: &[&str]) -> Result<&Yaml<'a>, TemplateError> {
        path.iter().try_fold(&self.document, |node, key| {
            node.as_mapping_get(key).ok_or_else(|| TemplateError(format!("{} is missing", path.join("."))))
        })
    }

    /// `None` is CloudFormation's `AWS::NoValue`: as if it were not there.
    fn value(&self, node: &Yaml<'_>) -> Result<Option<Value>, TemplateError> {
        Ok(Some(match node {
            Yaml::Value(Scalar::Null) => Value::Null,
            Yaml::Value(Scalar::Boolean(truth)) => json!(truth),
            Yaml::Value(Scalar::Integer(number)) => json!(number),
            Yaml::Value(Scalar::FloatingPoint(number)) => json!(number.into_inner()),
            Yaml::Value(Scalar::String(text)) => json!(text),
            Yaml::Sequence(items) => {
                let values = items.iter().map(|item| self.value(item));
                values.filter_map(Result::transpose).collect::<Result<_, _>>()?
            }
            Yaml::Mapping(entries) => {
                let mut object = Map::new();
                for (key, entry) in entries {
                    let key = key.as_str().ok_or_else(|| TemplateError(format!("{key:?} is no name")))?;
                    if let Some(value) = self.value(entry)? {
                        object.insert(key.to_owned(), value);
                    }
                }
                Value::Object(object)
            }
            Yaml::Tagged(tag, inner) => return self.intrinsic(&tag.suffix, inner),
            Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => {
                return Err(TemplateError(format!("{node:?} is not understood")));
            }
        }))
    }

    fn intrinsic(&self, name: &str, argument: &Yaml<'_>) -> Result<Option<Value>, TemplateError> {
        match (name, argument.as_str(), argument.as_sequence().map(Vec::as_slice)) {
            ("If", _, Some([condition, then, otherwise])) => {
                let condition = condition.as_str().unwrap_or_default();
                self.value(if self.named_condition(condition)? { then } else { otherwise })
            }
            ("Ref", Some("AWS::NoValue"), _) => Ok(None),
            ("Ref", Some(name), _) => Ok(Some(self.parameter(name).unwrap_or_else(|| json!({ "Ref": name })))),
            ("GetAtt", Some(path), _) => Ok(Some(json!({ "Fn::GetAtt": path.split('.').collect::<Vec<_>>() }))),
            ("Sub", Some(text), _) => Ok(Some(json!({ "Fn::Sub": text }))),
            _ => Err(TemplateError(format!("the preview does not know !{name} as it is used here"))),
        }
    }

    fn parameter(&self, name: &str) -> Option<Value> {
        let given = self.given.iter().find(|(parameter, _)| *parameter == name);
        match given {
            Some((_, value)) => Some(json!(value)),
            None => self.at(&["Parameters", name, "Default"]).ok().and_then(Yaml::as_str).map(Value::from),
        }
    }

    fn named_condition(&self, name: &str) -> Result<bool, TemplateError> {
        self.condition(self.at(&["Conditions", name])?)
    }

    fn condition(&self, node: &Yaml<'_>) -> Result<bool, TemplateError> {
        let Yaml::Tagged(tag, argument) = node else {
            return Err(TemplateError(format!("{node:?} is no condition")));
        };
        let arguments = argument.as_sequence().map(Vec::as_slice).unwrap_or_default();
        match (tag.suffix.as_str(), arguments) {
            ("Equals", [left, right]) => Ok(self.value(left)? == self.value(right)?),
            ("Not", [condition]) => Ok(!self.condition(condition)?),
            ("And", all) => all.iter().try_fold(true, |so_far, next| Ok(so_far & self.condition(next)?)),
            ("Or", any) => any.iter().try_fold(false, |so_far, next| Ok(so_far | self.condition(next)?)),
            ("Condition", _) => self.named_condition(argument.as_str().unwrap_or_default()),
            (other, _) => Err(TemplateError(format!("the preview does not know the condition !{other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = r#"
Parameters:
  Bucket: {Type: String, Default: ""}
  Attach: {Type: String, Default: "yes"}
Conditions:
  HasBucket: !Not [!Equals [!Ref Bucket, ""]]
  IsAttached: !And [!Condition HasBucket, !Equals [!Ref Attach, "yes"]]
  Either: !Or [!Condition HasBucket, !Condition IsAttached]
Resources:
  Thing:
    Type: A::Thing
    Properties:
      Number: 7
      Attached: !If [IsAttached, [!Ref Other], !Ref AWS::NoValue]
      Either: !If [Either, !GetAtt Other.Arn, none]
      Names: [!Sub "${Bucket}-x", !Ref AWS::NoValue, !Ref Attach]
  Odd:
    Type: A::Thing
    Properties: {Name: !Join ["-", [a, b]]}
"#;

    #[track_caller]
    fn check(given: &[(&str, &str)], expected: &Value) {
        assert_eq!(Template::parse(TEMPLATE, given).unwrap().properties("Thing").unwrap(), *expected);
    }

    #[test]
    fn conditions_follow_the_parameters() {
        check(&[], &json!({"Number": 7, "Either": "none", "Names": [{"Fn::Sub": "${Bucket}-x"}, "yes"]}));
        check(
            &[("Bucket", "b")],
            &json!({
                "Number": 7,
                "Attached": [{"Ref": "Other"}],
                "Either": {"Fn::GetAtt": ["Other", "Arn"]},
                "Names": [{"Fn::Sub": "${Bucket}-x"}, "yes"],
            }),
        );
    }

    #[test]
    fn what_is_not_known_is_named() {
        let template = Template::parse(TEMPLATE, &[]).unwrap();
        let error = template.properties("Odd").unwrap_err().to_string();
        assert_eq!(error, "cloudformation/edge.yaml: Odd: the preview does not know !Join as it is used here");
        let error = template.properties("Missing").unwrap_err().to_string();
        assert_eq!(error, "cloudformation/edge.yaml: Resources.Missing.Properties is missing");
        assert!(Template::parse(TEMPLATE, &[("Bukket", "b")]).is_err());
        assert_eq!(template.resources("A::Thing"), ["Thing", "Odd"]);
    }
}
