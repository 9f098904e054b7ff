//! The same function for an ordinary regional Lambda: it also sends its last events when it is shut down.

use lambda_runtime::Error;
use redirect::start;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let edge = start::edge_or_report().await;
    start::flush_at_shutdown(edge.clone()).await;
    start::serve(edge).await
}
