//! The AWS SDK over this crate's [`Transport`]: one connection pool that sees freezes, one TLS library.

use super::StoreError;
use crate::transport::Transport;
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Region, StalledStreamProtectionConfig};
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use std::error::Error;
use std::{env, fmt};

/// DynamoDB returns at most 16 MB, before JSON escapes them.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// For `http_client(..)` of an AWS SDK's configuration. The timeout is the transport's.
impl HttpClient for Transport {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let transport = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request = request.map(|body| body.bytes().map(Bytes::copy_from_slice));
            let response = transport.exchange(request, MAX_RESPONSE_BYTES).await;
            let response = response.map_err(|error| ConnectorError::io(error.into()))?.map(SdkBody::from);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::user(error.into()))
        })
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

/// The configuration that Lambda gives a function, for `region` or the function's own. The credentials outlive the
/// execution environment.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime>
pub(super) fn config_from_environment(region: Option<&str>, transport: Transport) -> Result<Builder, StoreError> {
    let required = |name: &str| {
        env::var(name).map_err(|_| StoreError::Settings {
            store: "DynamoDB".to_owned(),
            why: format!("the environment variable {name} is missing"),
        })
    };
    let region = region.map_or_else(|| required("AWS_REGION"), |region| Ok(region.to_owned()))?;
    let (id, secret) = (required("AWS_ACCESS_KEY_ID")?, required("AWS_SECRET_ACCESS_KEY")?);
    let credentials = Credentials::new(id, secret, env::var("AWS_SESSION_TOKEN").ok(), None, "environment");
    let mut config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(credentials)
        .http_client(transport)
        // The transport limits the whole request.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_endpoint_url(env::var("AWS_ENDPOINT_URL_DYNAMODB").ok());
    Ok(config)
}

/// An error of an AWS SDK as text: the service's code and message, or every cause of a request that was not answered.
pub fn describe_aws_error(error: &(impl ProvideErrorMetadata + Error)) -> String {
    match error.code() {
        Some(code) => format!("{code}: {}", error.message().unwrap_or("no message")),
        None => DisplayErrorContext(error).to_string(),
    }
}
