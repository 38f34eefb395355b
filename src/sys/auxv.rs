//! What the kernel told the program at its start.
#![allow(unsafe_code)]

/// `getauxval(AT_SECURE)`: whether this program was started with more rights than its caller
/// has, by a set-user-ID or set-group-ID bit or by capabilities of its file.
///
/// # Sources
/// getauxval(3); `cap_bprm_creds_from_file` in security/commoncap.c.
#[must_use]
pub fn secure_execution() -> bool {
    // SAFETY: getauxval takes a number and reads memory that libc set up at the start.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
