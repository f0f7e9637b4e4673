//! The fast CPU device.
