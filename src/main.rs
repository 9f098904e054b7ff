//! The edge function: answers CloudFront's viewer requests with a redirect to the site that a flag chooses.

use lambda_runtime::Error;
use redirect::start;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let edge = start::edge_or_report().await;
    start::serve(edge).await
}
