//! The edge function: answers CloudFront's viewer requests with a redirect to the site that a flag chooses.

use lambda_runtime::{Error, Runtime, service_fn};
use redirect::edge::BetweenInvocations;
use redirect::{logs, start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    start::block_on_standard_streams();
    logs::init();
    let edge = match start::edge().await {
        Ok(edge) => edge,
        Err(error) => {
            start::report(&error).await;
            std::process::exit(1);
        }
    };
    #[cfg(feature = "regional")]
    start::flush_at_shutdown(edge.clone()).await;

    let handler = service_fn(|event| {
        let edge = edge.clone();
        async move { edge.handle(event).await }
    });
    Runtime::new(handler).layer(BetweenInvocations(edge.clone())).run().await
}
