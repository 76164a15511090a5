//! SIGTERM and SIGINT: the first one asks for an orderly shutdown, a second
//! one ends the process at once.

use std::{future::Future, io};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// What shells expect of a process that a signal ended: 128 and SIGINT's 2.
const ENDED_BY_SIGNAL: i32 = 130;

/// Ready at the first signal. From this call on the process does not die by
/// these signals on its own.
///
/// # Errors
/// The handlers cannot be installed.
pub fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (tell, told) = oneshot::channel();
    // Lives as long as the process: on cancel and on error there is nothing
    // to undo.
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        let _ = tell.send(());
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("a second signal: ending at once");
        std::process::exit(ENDED_BY_SIGNAL);
    });
    Ok(async move {
        // An error means that the runtime is going down as well.
        let _ = told.await;
    })
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
