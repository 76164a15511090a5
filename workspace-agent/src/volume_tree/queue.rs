//! A queue between two threads that is bounded by the bytes it holds.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    /// Signalled when there is something to take, or nothing more will come.
    filled: Condvar,
    /// Signalled when there is room, or nobody will take anything.
    emptied: Condvar,
    limit_bytes: usize,
}

struct State<T> {
    items: VecDeque<(T, usize)>,
    /// Sum of the bytes of `items`.
    held_bytes: usize,
    closed: bool,
}

/// The other end is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl<T> Queue<T> {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                held_bytes: 0,
                closed: false,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            limit_bytes,
        }
    }

    /// Adds an item that stands for so many bytes, and waits for room first. An
    /// item of any size finds room in an empty queue.
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), Closed> {
        let mut state = self.lock();
        while !state.closed
            && !state.items.is_empty()
            && state.held_bytes + bytes > self.limit_bytes
        {
            state = self
                .emptied
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Closed);
        }
        state.items.push_back((item, bytes));
        state.held_bytes += bytes;
        self.filled.notify_one();
        Ok(())
    }

    /// The next item; nothing once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some((item, bytes)) = state.items.pop_front() {
                state.held_bytes -= bytes;
                self.emptied.notify_one();
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self
                .filled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Refuses what is still to be pushed. What is there can be taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// Nothing that a panic can interrupt leaves the state half changed.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a queue when its scope ends, also by a panic: the other end must not
/// wait for ever.
pub(super) struct CloseOnDrop<'a, T>(pub(super) &'a Queue<T>);

impl<T> Drop for CloseOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_order_and_the_bytes_are_bounded() {
        let queue = Queue::new(10);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _close = CloseOnDrop(&queue);
                for number in 0..1000_usize {
                    // Some are larger than the whole limit.
                    queue.push(number, number % 15).unwrap();
                    let state = queue.lock();
                    assert!(state.held_bytes <= 10 || state.items.len() == 1);
                }
            });
            let mut taken = Vec::new();
            while let Some(number) = queue.pop() {
                taken.push(number);
            }
            assert_eq!(taken, (0..1000).collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_producer_that_waits_for_room_learns_that_nobody_takes_anything() {
        let queue = Queue::new(1);
        queue.push('a', 1).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.push('b', 1));
            queue.close();
            assert_eq!(waiting.join().unwrap(), Err(Closed));
        });
        assert_eq!((queue.pop(), queue.pop()), (Some('a'), None));
    }
}
