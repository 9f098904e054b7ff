//! [`Transport`] as the HTTP client of AWS's SDK: one pool that knows of freezes, one TLS library.

use crate::transport::{RequestError, Response, Transport};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use std::fmt;

/// The largest answer that is read: DynamoDB's are at most 16 MB, before JSON escapes what it must.
const LARGEST: usize = 64 * 1024 * 1024;

/// For `http_client(..)` of an AWS SDK's configuration. Its timeout is the transport's.
#[derive(Clone)]
pub struct AwsTransport(pub Transport);

impl fmt::Debug for AwsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwsTransport")
    }
}

impl HttpClient for AwsTransport {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for AwsTransport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let transport = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request = request.map(|body| body.bytes().map(Bytes::copy_from_slice));
            let Response { head, body } = transport.exchange(request, LARGEST).await.map_err(|error| match error {
                RequestError::TimedOut(_) => ConnectorError::timeout(error.into()),
                RequestError::Failed(_) | RequestError::TooLarge(_) => ConnectorError::io(error.into()),
            })?;
            let response = http::Response::from_parts(head, SdkBody::from(body));
            HttpResponse::try_from(response).map_err(|error| ConnectorError::user(error.into()))
        })
    }
}
