//! The means of the other tests, tested: a worker that forgets a call or a power cut that loses nothing would make every test
//! that relies on it worthless.

mod power;
mod worker;
