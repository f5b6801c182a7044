//! What the kernel says about its clock.

/// Whether the kernel's clock is kept in step by NTP or PTP, as `adjtimex(2)` reports it; `None`
/// where it cannot be asked.
#[expect(unsafe_code, reason = "adjtimex has no safe door yet")]
pub(crate) fn is_synchronized() -> Option<bool> {
    // SAFETY: all fields of timex are integers, for which zero is a value; with `modes` 0 the call
    // only reads the clock and fills the struct it is given.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}
