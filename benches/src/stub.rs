//! A broker that does nothing but deliver, so that only the worker is measured.
