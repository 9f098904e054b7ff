//! The CloudFormation template as `just deploy` fills it in: with a package and nothing else, so that the function is
//! attached.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// The only condition that changes what a viewer meets on this machine.
const ATTACHED: &str = "IsAttached";

/// Without effect on this machine: it has no certificate, no firewall, no cache and no bucket, and loopback needs no
/// compression.
const NO_EFFECT: [&str; 15] = [
    "Aliases",
    "CachePolicyId",
    "Comment",
    "Compress",
    "DomainName",
    "Enabled",
    "ErrorCachingMinTTL",
    "HttpVersion",
    "IPV6Enabled",
    "OriginAccessControlId",
    "PriceClass",
    "S3OriginConfig",
    "ViewerCertificate",
    "ViewerProtocolPolicy",
    "WebACLId",
];

/// What the preview cannot show of the template.
#[derive(Debug, thiserror::Error)]
#[error("cloudformation/edge.yaml: {0}")]
pub struct TemplateError(pub(super) String);

/// A template.
pub(super) struct Template<'a>(Yaml<'a>);

impl<'a> Template<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, TemplateError> {
        let documents = Yaml::load_from_str(text).map_err(|error| TemplateError(error.to_string()))?;
        let document = documents.into_iter().next();
        document.map(Self).ok_or_else(|| TemplateError("the file is empty".to_owned()))
    }

    /// The name of the only resource of a type.
    pub(super) fn only(&self, kind: &str) -> Result<&str, TemplateError> {
        let resources = self.at(&["Resources"])?.as_mapping().into_iter().flat_map(|resources| resources.keys());
        let names: Vec<_> = resources.filter_map(Yaml::as_str).filter(|name| self.kind(name) == Some(kind)).collect();
        match *names {
            [name] => Ok(name),
            _ => Err(TemplateError(format!("the preview needs one resource of type {kind}, not {}", names.len()))),
        }
    }

    /// The type of a resource.
    pub(super) fn kind(&self, name: &str) -> Option<&str> {
        self.at(&["Resources", name, "Type"]).ok()?.as_str()
    }

    pub(super) fn at(&self, path: &[&str]) -> Result<&Yaml<'a>, TemplateError> {
        path.iter().try_fold(&self.0, |node, key| {
            node.as_mapping_get(key).ok_or_else(|| TemplateError(format!("{} is missing", path.join("."))))
        })
    }
}

/// What has an effect on this machine, as JSON: `!Ref A` is `"A"`, `!GetAtt A.B` is `"A.B"`. `None` is
/// `AWS::NoValue`, as if it were absent.
pub(super) fn resolved(node: &Yaml<'_>) -> Result<Option<Value>, TemplateError> {
    let unknown = || Err(TemplateError(format!("the preview does not know {node:?} as it is used here")));
    Ok(Some(match node {
        Yaml::Value(Scalar::Boolean(truth)) => json!(truth),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Sequence(items) => items.iter().map(resolved).filter_map(Result::transpose).collect::<Result<_, _>>()?,
        Yaml::Mapping(entries) => {
            let mut object = Map::new();
            for (key, entry) in entries {
                let key = key.as_str().unwrap_or_default();
                if !NO_EFFECT.contains(&key)
                    && let Some(value) = resolved(entry)?
                {
                    object.insert(key.to_owned(), value);
                }
            }
            Value::Object(object)
        }
        Yaml::Tagged(tag, argument) => match (tag.suffix.as_str(), argument.as_ref()) {
            ("Ref", Yaml::Value(Scalar::String(name))) if name == "AWS::NoValue" => return Ok(None),
            ("Ref" | "GetAtt", Yaml::Value(Scalar::String(name))) => json!(name),
            ("If", Yaml::Sequence(branches)) => match branches.as_slice() {
                [condition, then, _] if condition.as_str() == Some(ATTACHED) => return resolved(then),
                _ => return unknown(),
            },
            _ => return unknown(),
        },
        _ => return unknown(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = r#"
Resources:
  Thing:
    Type: A::Thing
    Properties:
      Number: 7
      Comment: !Sub "${AWS::StackName}"
      Attached: !If [IsAttached, [!Ref Other], !Ref AWS::NoValue]
      Detached: !If [IsAttached, !Ref AWS::NoValue, [x]]
      Names: [!GetAtt Other.Arn, !Ref AWS::NoValue, yes]
  Odd: {Type: B::Thing, Properties: {Name: !Join ["-", [a, b]]}}
  Conditional: {Type: B::Thing, Properties: {Name: !If [HasDomain, a, b]}}
"#;

    fn properties(name: &str) -> Result<Option<Value>, TemplateError> {
        resolved(Template::parse(TEMPLATE).unwrap().at(&["Resources", name, "Properties"])?)
    }

    #[test]
    fn the_function_is_attached() {
        let expected = json!({"Number": 7, "Attached": ["Other"], "Names": ["Other.Arn", "yes"]});
        assert_eq!(properties("Thing").unwrap(), Some(expected));
    }

    #[track_caller]
    fn check_error<T: std::fmt::Debug>(outcome: Result<T, TemplateError>, expected: &str) {
        let error = outcome.unwrap_err().to_string();
        assert!(error.starts_with("cloudformation/edge.yaml: ") && error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_not_known_is_named() {
        check_error(properties("Odd"), "Join");
        check_error(properties("Conditional"), "HasDomain");
        check_error(properties("Missing"), "Resources.Missing.Properties is missing");
        let template = Template::parse(TEMPLATE).unwrap();
        assert_eq!(template.only("A::Thing").unwrap(), "Thing");
        check_error(template.only("B::Thing"), "one resource of type B::Thing, not 2");
    }
}
