//! The slow device that is obviously right.
