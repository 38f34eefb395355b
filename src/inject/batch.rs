//! A list of system calls for a stopped thread, and what they returned.

use nix::errno::Errno;

/// A system call's argument: a number, or the address of a buffer inside the task.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A plain value.
    Value(u64),
    /// The address of a buffer asked for with [`Batch::buffer`].
    Buffer(Buffer),
    /// The address at which the first argument of another call stands: whoever writes there
    /// decides what that call is told.
    FirstArgumentOf(CallIndex),
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument::Value(value)
    }
}

impl From<Buffer> for Argument {
    fn from(buffer: Buffer) -> Self {
        Argument::Buffer(buffer)
    }
}

/// Room inside the task for what a call reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    offset: usize,
    len: usize,
}

/// The place of a call in its batch; the key to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallIndex(usize);

#[derive(Clone, Debug)]
struct Call {
    number: i64,
    /// Calls that are left out if this one returns anything but 0.
    skipped: u32,
    arguments: Vec<Argument>,
}

/// System calls to be made by one thread, in order, whatever each returns.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Calls made before those of the caller, whose results are not kept.
    preparations: Vec<Call>,
    calls: Vec<Call>,
    buffers: Vec<u8>,
}

const WORDS_PER_RECORD: usize = 8;
const RECORD_BYTES: usize = WORDS_PER_RECORD * 8;
const END_OF_LIST: i64 = -1;

impl Batch {
    /// Room for `len` zeroed bytes, aligned for any kernel structure.
    pub fn buffer(&mut self, len: usize) -> Buffer {
        let offset = self.buffers.len();
        self.buffers.resize(offset + len.next_multiple_of(16), 0);
        Buffer { offset, len }
    }

    /// Room that holds `content` when the calls are made.
    pub fn buffer_with(&mut self, content: &[u8]) -> Buffer {
        let buffer = self.buffer(content.len());
        self.buffers[buffer.offset..buffer.offset + content.len()].copy_from_slice(content);
        buffer
    }

    /// Appends a call; missing arguments are 0.
    pub fn call(&mut self, number: i64, arguments: &[Argument]) -> CallIndex {
        self.branch(number, arguments, 0)
    }

    /// Appends a call; the `skipped` calls behind it are made only if it returns 0, as `clone`
    /// does in the child.
    pub fn branch(&mut self, number: i64, arguments: &[Argument], skipped: u32) -> CallIndex {
        self.calls.push(Call {
            number,
            skipped,
            arguments: arguments.to_vec(),
        });
        CallIndex(self.calls.len() - 1)
    }

    /// The call that will be appended after `between` others.
    #[must_use]
    pub fn upcoming(&self, between: usize) -> CallIndex {
        CallIndex(self.calls.len() + between)
    }

    /// Prepends a call whose result is not kept.
    pub(super) fn prepare(&mut self, number: i64, arguments: &[Argument]) {
        self.preparations.push(Call {
            number,
            skipped: 0,
            arguments: arguments.to_vec(),
        });
    }

    /// Records of calls and the end mark, in bytes.
    fn list_bytes(&self) -> usize {
        (self.preparations.len() + self.calls.len() + 1) * RECORD_BYTES
    }

    /// The bytes this batch needs inside the task: records, end mark, buffers.
    pub(super) fn len_bytes(&self) -> usize {
        self.list_bytes() + self.buffers.len()
    }

    /// The bytes to put at `address` inside the task.
    pub(super) fn encode(&self, address: u64) -> Vec<u8> {
        let buffers_at = address + self.list_bytes() as u64;
        let mut bytes = Vec::with_capacity(self.len_bytes());
        for call in self.preparations.iter().chain(&self.calls) {
            let mut record = [0_u64; WORDS_PER_RECORD];
            let number = call.number.cast_unsigned() & u64::from(u32::MAX);
            record[0] = number | u64::from(call.skipped) << u32::BITS;
            for (word, argument) in record[1..7].iter_mut().zip(&call.arguments) {
                *word = match *argument {
                    Argument::Value(value) => value,
                    Argument::Buffer(buffer) => buffers_at + buffer.offset as u64,
                    Argument::FirstArgumentOf(CallIndex(index)) => {
                        let records = self.preparations.len() + index;
                        address + (records * RECORD_BYTES + 8) as u64
                    }
                };
            }
            record
                .iter()
                .for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        }
        bytes.extend_from_slice(&END_OF_LIST.to_le_bytes());
        bytes.resize(self.list_bytes(), 0);
        bytes.extend_from_slice(&self.buffers);
        bytes
    }

    /// Reads the results out of the bytes that stand at the batch's address afterwards.
    pub(super) fn results(&self, bytes: &[u8]) -> Results {
        let returned = bytes[self.preparations.len() * RECORD_BYTES..]
            .chunks_exact(RECORD_BYTES)
            .take(self.calls.len())
            .map(|record| {
                let mut word = [0; 8];
                word.copy_from_slice(&record[RECORD_BYTES - 8..]);
                i64::from_le_bytes(word)
            })
            .collect();
        Results {
            returned,
            buffers: bytes[self.list_bytes()..].to_vec(),
        }
    }
}

/// What the calls of a [`Batch`] returned and wrote.
#[derive(Clone, Debug)]
pub struct Results {
    returned: Vec<i64>,
    buffers: Vec<u8>,
}

impl Results {
    /// The value a call returned.
    ///
    /// # Errors
    /// The errno it failed with.
    pub fn value(&self, call: CallIndex) -> Result<i64, Errno> {
        match self.returned[call.0] {
            error @ -4095..0 => Err(Errno::from_raw(i32::try_from(-error).unwrap_or(0))),
            value => Ok(value),
        }
    }

    /// [`Results::value`] of a call that returns a small number.
    ///
    /// # Errors
    /// The errno it failed with; `ERANGE` for a number of more than 32 bits.
    pub fn small(&self, call: CallIndex) -> Result<u32, Errno> {
        u32::try_from(self.value(call)?).map_err(|_| Errno::ERANGE)
    }

    /// What stands in a buffer after all calls.
    #[must_use]
    pub fn bytes(&self, buffer: Buffer) -> &[u8] {
        &self.buffers[buffer.offset..buffer.offset + buffer.len]
    }

    /// A little-endian word of a buffer, `index` counting words of 4 bytes.
    #[must_use]
    pub fn half(&self, buffer: Buffer, index: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes(buffer)[index * 4..index * 4 + 4]);
        u32::from_le_bytes(word)
    }

    /// A little-endian word of a buffer, `index` counting words of 8 bytes.
    #[must_use]
    pub fn word(&self, buffer: Buffer, index: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes(buffer)[index * 8..index * 8 + 8]);
        u64::from_le_bytes(word)
    }
}
