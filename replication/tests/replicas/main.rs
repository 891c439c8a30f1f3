//! Several nodes in one process, each on a runtime of its own, so that one can be taken away in the
//! middle of whatever it does.

mod crash;
mod ended;
mod fencing;
mod forming;
mod lease;
mod moving;
mod room;
