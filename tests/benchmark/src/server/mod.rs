//! A Kinesis server that costs next to nothing: it renders large answers in advance.
//!
//! It runs in a separate process, so its CPU time is not counted with that of its clients. It has one thread, and
//! implements HTTP/1.1 only as far as the clients here use it.

mod connection;
mod rendered;
mod stream;

use std::sync::Arc;

use kinesis_streaming::prelude::BoxError;
use tokio::net::TcpListener;

pub(crate) use stream::Plan;
use stream::Stream;

/// Prints the URL and serves until the process is killed.
pub(crate) async fn serve(plan: Plan) -> Result<(), BoxError> {
    let stream = Arc::new(Stream::new(plan)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let stream = stream.clone();
        // An error means that the client closed the connection.
        tokio::spawn(async move { drop(connection::answer_all(socket, &stream).await) });
    }
}
