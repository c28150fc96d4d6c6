//! Load generator, fast worker and peers.
