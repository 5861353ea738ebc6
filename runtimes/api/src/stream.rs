//! Requests with any number of answers: what Triton calls decoupled models.
//!
//! An instance is handed a [`StreamRequest`] and its [`Responses`]. It may send from its own thread
//! and return when it is done, or move the two to another thread and return at once, to be handed
//! the next request meanwhile. Each request ends exactly once: by [`Responses::finish`], or with an
//! error when the [`Responses`] are dropped without it, which is what a panic does.

use std::sync::Arc;

use mizzen_types::NamedTensor;

use crate::{Batch, Cancel, RuntimeError};

/// One request of a decoupled model: every input of the signature once, of the declared type and a
/// shape that fits.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// The inputs.
    pub inputs: Vec<NamedTensor>,
    /// Names of the outputs wanted in each answer; empty means all of the signature.
    pub outputs: Vec<Arc<str>>,
}

impl StreamRequest {
    /// The same as a batch.
    pub fn batch(&self) -> Batch<'_> {
        Batch { inputs: &self.inputs, outputs: &self.outputs }
    }
}

/// Where the answers of one request go.
pub trait Sink: Send {
    /// Takes one answer. Blocks while the receiver has as many as it holds.
    ///
    /// # Errors
    /// [`RuntimeError::Cancelled`] once nobody wants the answers any more; whatever else makes the
    /// answer unusable. Either way no more are taken.
    fn send(&mut self, outputs: Vec<NamedTensor>) -> Result<(), RuntimeError>;

    /// Says that there are no more answers, and whether that is as it should be. Called once, last.
    fn end(&mut self, outcome: Result<(), RuntimeError>);
}

/// The sending side of one request's answers, owned by the engine until it is done.
pub struct Responses {
    sink: Option<Box<dyn Sink>>,
    cancel: Cancel,
}

impl Responses {
    /// Answers to this sink; `cancel` is raised when they are no longer wanted.
    pub fn new(sink: Box<dyn Sink>, cancel: Cancel) -> Self {
        Self { sink: Some(sink), cancel }
    }

    /// Raised when the answers are no longer wanted. An engine that waits or computes for long
    /// between two answers looks at it.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Sends one answer: the wanted outputs, in the order asked. Blocks while the receiver has as
    /// many as it holds.
    ///
    /// # Errors
    /// [`RuntimeError::Cancelled`] once nobody wants the answers any more, or what is wrong with the
    /// answer. The engine then stops, and hands the error to [`Responses::finish`].
    pub fn send(&mut self, outputs: Vec<NamedTensor>) -> Result<(), RuntimeError> {
        match &mut self.sink {
            Some(sink) if !self.cancel.is_cancelled() => sink.send(outputs),
            _ => Err(RuntimeError::Cancelled),
        }
    }

    /// Ends the request.
    pub fn finish(mut self, outcome: Result<(), RuntimeError>) {
        if let Some(mut sink) = self.sink.take() {
            sink.end(outcome);
        }
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        if let Some(mut sink) = self.sink.take() {
            sink.end(Err(RuntimeError::Run("it gave up the request before its end".into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Seen {
        answers: usize,
        ends: Vec<String>,
    }

    struct Recorder(Arc<Mutex<Seen>>);

    impl Sink for Recorder {
        fn send(&mut self, _: Vec<NamedTensor>) -> Result<(), RuntimeError> {
            self.0.lock().unwrap().answers += 1;
            Ok(())
        }

        fn end(&mut self, outcome: Result<(), RuntimeError>) {
            let text = outcome.map_or_else(|error| format!("{error:?}"), |()| "done".to_owned());
            self.0.lock().unwrap().ends.push(text);
        }
    }

    fn responses() -> (Responses, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        (Responses::new(Box::new(Recorder(seen.clone())), Cancel::default()), seen)
    }

    #[test]
    fn a_request_ends_once_whatever_the_engine_does() {
        let (mut finished, seen) = responses();
        finished.send(Vec::new()).unwrap();
        finished.finish(Ok(()));
        {
            let seen = seen.lock().unwrap();
            assert_eq!((seen.answers, &seen.ends[..]), (1, &["done".to_owned()][..]));
        }

        let (dropped, seen) = responses();
        drop(dropped);
        let ends = &seen.lock().unwrap().ends;
        assert!(matches!(&ends[..], [end] if end.contains("gave up")), "{ends:?}");

        let (panicked, seen) = responses();
        let thread = std::thread::spawn(move || {
            let _held = panicked;
            panic!("an engine's bug");
        });
        assert!(thread.join().is_err());
        assert_eq!(seen.lock().unwrap().ends.len(), 1);
    }

    #[test]
    fn nothing_is_sent_once_cancelled() {
        let (mut cancelled, seen) = responses();
        cancelled.cancel().cancel();
        assert!(matches!(cancelled.send(Vec::new()), Err(RuntimeError::Cancelled)));
        assert_eq!(seen.lock().unwrap().answers, 0);
    }
}
