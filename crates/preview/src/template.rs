//! The CloudFormation template as `just deploy` fills it in: with a package, so that the function is attached, and with
//! the paths of `redirect.toml`.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

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
pub(super) struct Template<'a> {
    document: Yaml<'a>,
    current_path: &'a str,
    beta_path: &'a str,
}

impl<'a> Template<'a> {
    pub(super) fn parse(text: &'a str, current_path: &'a str, beta_path: &'a str) -> Result<Self, TemplateError> {
        let documents = Yaml::load_from_str(text).map_err(|error| TemplateError(error.to_string()))?;
        let document = documents.into_iter().next().ok_or_else(|| TemplateError("the file is empty".to_owned()))?;
        Ok(Self { document, current_path, beta_path })
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
        path.iter().try_fold(&self.document, |node, key| {
            node.as_mapping_get(key).ok_or_else(|| TemplateError(format!("{} is missing", path.join("."))))
        })
    }

    /// What has an effect on this machine, as JSON: `!Ref A` to a resource is `"A"`, `!GetAtt A.B` is `"A.B"`. `None` is
    /// `AWS::NoValue`, as if it were absent.
    pub(super) fn resolved(&self, node: &Yaml<'_>) -> Result<Option<Value>, TemplateError> {
        let unknown = || Err(TemplateError(format!("the preview does not know {node:?} as it is used here")));
        Ok(Some(match node {
            Yaml::Value(Scalar::Boolean(truth)) => json!(truth),
            Yaml::Value(Scalar::Integer(number)) => json!(number),
            Yaml::Value(Scalar::String(text)) => json!(text),
            Yaml::Sequence(items) => {
                let items = items.iter().map(|item| self.resolved(item));
                items.filter_map(Result::transpose).collect::<Result<_, _>>()?
            }
            Yaml::Mapping(entries) => {
                let mut object = Map::new();
                for (key, entry) in entries {
                    let key = key.as_str().unwrap_or_default();
                    if !NO_EFFECT.contains(&key)
                        && let Some(value) = self.resolved(entry)?
                    {
                        object.insert(key.to_owned(), value);
                    }
                }
                Value::Object(object)
            }
            Yaml::Tagged(tag, argument) => match (tag.suffix.as_str(), argument.as_ref()) {
                ("Ref", Yaml::Value(Scalar::String(name))) => match name.as_ref() {
                    "AWS::NoValue" => return Ok(None),
                    "CurrentPath" => json!(self.current_path),
                    "BetaPath" => json!(self.beta_path),
                    resource => json!(resource),
                },
                ("GetAtt", Yaml::Value(Scalar::String(name))) => json!(name),
                ("Sub", Yaml::Value(Scalar::String(text))) => {
                    let text = text.replace("${CurrentPath}", self.current_path).replace("${BetaPath}", self.beta_path);
                    if text.contains("${") {
                        return unknown();
                    }
                    json!(text)
                }
                ("If", Yaml::Sequence(branches)) => match branches.as_slice() {
                    [condition, then, otherwise] => match condition.as_str() {
                        Some("IsAttached") => return self.resolved(then),
                        Some("AtRoot") if self.current_path == "/" => return self.resolved(then),
                        Some("AtRoot") => return self.resolved(otherwise),
                        _ => return unknown(),
                    },
                    _ => return unknown(),
                },
                _ => return unknown(),
            },
            _ => return unknown(),
        }))
    }
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
      Paths: [!Ref BetaPath, !If [AtRoot, /, !Sub "${CurrentPath}/*"]]
  Odd: {Type: B::Thing, Properties: {Name: !Join ["-", [a, b]]}}
  Conditional: {Type: B::Thing, Properties: {Name: !If [HasDomain, a, b]}}
  Named: {Type: C::Thing, Properties: {Name: !Sub "${AWS::StackName}-x"}}
"#;

    fn properties(name: &str, current_path: &str) -> Result<Option<Value>, TemplateError> {
        let template = Template::parse(TEMPLATE, current_path, "/beta").unwrap();
        template.resolved(template.at(&["Resources", name, "Properties"])?)
    }

    #[test]
    fn the_function_is_attached_and_the_paths_are_those_of_the_settings() {
        for (current_path, expected) in [("/site", "/site/*"), ("/", "/")] {
            let names = ["Other.Arn", "yes"];
            let expected = json!({"Number": 7, "Attached": ["Other"], "Names": names, "Paths": ["/beta", expected]});
            assert_eq!(properties("Thing", current_path).unwrap(), Some(expected));
        }
    }

    #[track_caller]
    fn check_error<T: std::fmt::Debug>(outcome: Result<T, TemplateError>, expected: &str) {
        let error = outcome.unwrap_err().to_string();
        assert!(error.starts_with("cloudformation/edge.yaml: ") && error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_not_known_is_named() {
        check_error(properties("Odd", "/"), "Join");
        check_error(properties("Conditional", "/"), "HasDomain");
        check_error(properties("Named", "/"), "AWS::StackName");
        check_error(properties("Missing", "/"), "Resources.Missing.Properties is missing");
        let template = Template::parse(TEMPLATE, "/", "/beta").unwrap();
        assert_eq!(template.only("A::Thing").unwrap(), "Thing");
        check_error(template.only("B::Thing"), "one resource of type B::Thing, not 2");
    }
}
