//! A line that is edited: keys in, text and cursor out.
//!
//! Line editors that others keep switch on features of libraries below DataFusion, which would be compiled again.

use super::{
    terminal::{Raw, width},
    words::Names,
};
use anyhow::{Context as _, Result};
use std::io::{self, Write as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Char(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    Eof,
    /// Ctrl-K.
    KillRight,
    /// Ctrl-U.
    KillLeft,
    /// Ctrl-W.
    KillWord,
    /// Anything else.
    Unknown,
}

/// The first key of `bytes` and its length; `None` if more must come.
fn key(bytes: &[u8]) -> Option<(Key, usize)> {
    let control = |letter: u8| letter - b'@';
    let found = match *bytes.first()? {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x7f | 0x08 => Key::Backspace,
        byte if byte == control(b'A') => Key::Home,
        byte if byte == control(b'B') => Key::Left,
        byte if byte == control(b'C') => Key::Interrupt,
        byte if byte == control(b'D') => Key::Eof,
        byte if byte == control(b'E') => Key::End,
        byte if byte == control(b'F') => Key::Right,
        byte if byte == control(b'K') => Key::KillRight,
        byte if byte == control(b'N') => Key::Down,
        byte if byte == control(b'P') => Key::Up,
        byte if byte == control(b'U') => Key::KillLeft,
        byte if byte == control(b'W') => Key::KillWord,
        0x1b => return escape(bytes),
        0..0x20 => Key::Unknown,
        first => {
            let length = match first {
                0..0x80 => 1,
                0xc0..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0.. => 4,
                _ => return Some((Key::Unknown, 1)),
            };
            let text = bytes.get(..length)?;
            let char = std::str::from_utf8(text).ok().and_then(|text| text.chars().next());
            return Some(char.map_or((Key::Unknown, 1), |char| (Key::Char(char), length)));
        }
    };
    Some((found, 1))
}

/// ECMA-48 §5.4: a control sequence, or ESC O and a letter.
fn escape(bytes: &[u8]) -> Option<(Key, usize)> {
    match bytes.get(1)? {
        b'O' => {}
        b'[' => {}
        _ => return Some((Key::Unknown, 2)),
    }
    let end = bytes[2..].iter().position(|byte| (0x40..0x7f).contains(byte))? + 2;
    let found = match &bytes[2..=end] {
        b"A" => Key::Up,
        b"B" => Key::Down,
        b"C" => Key::Right,
        b"D" => Key::Left,
        b"H" | b"1~" | b"7~" => Key::Home,
        b"F" | b"4~" | b"8~" => Key::End,
        b"3~" => Key::Delete,
        _ => Key::Unknown,
    };
    Some((found, end + 1))
}

#[derive(Debug, Default)]
struct Line {
    text: Vec<char>,
    at: usize,
}

impl Line {
    fn of(text: &str) -> Self {
        let text: Vec<char> = text.chars().collect();
        Self { at: text.len(), text }
    }

    fn before(&self) -> String {
        self.text[..self.at].iter().collect()
    }

    /// Keys that change the line alone.
    fn apply(&mut self, key: Key) {
        match key {
            Key::Char(char) => {
                self.text.insert(self.at, char);
                self.at += 1;
            }
            Key::Backspace if self.at > 0 => {
                self.at -= 1;
                self.text.remove(self.at);
            }
            Key::Delete if self.at < self.text.len() => drop(self.text.remove(self.at)),
            Key::Left => self.at = self.at.saturating_sub(1),
            Key::Right => self.at = (self.at + 1).min(self.text.len()),
            Key::Home => self.at = 0,
            Key::End => self.at = self.text.len(),
            Key::KillRight => self.text.truncate(self.at),
            Key::KillLeft => {
                self.text.drain(..self.at);
                self.at = 0;
            }
            Key::KillWord => {
                let is_space = |at: usize| self.text[at].is_whitespace();
                let mut start = self.at;
                while start > 0 && is_space(start - 1) {
                    start -= 1;
                }
                while start > 0 && !is_space(start - 1) {
                    start -= 1;
                }
                self.text.drain(start..self.at);
                self.at = start;
            }
            _ => {}
        }
    }

    /// Completes the word before the cursor as far as it is the same in all that it could become, which are given back.
    fn complete(&mut self, names: &Names) -> Vec<String> {
        let before = self.before();
        let (start, candidates) = names.candidates(&before);
        let Some(first) = candidates.first() else { return candidates };
        let common = candidates.iter().fold(first.as_str(), |common, candidate| {
            let same = common.char_indices().zip(candidate.chars()).take_while(|((_, a), b)| a == b);
            let end = same.last().map_or(0, |((at, char), _)| at + char.len_utf8());
            &common[..end]
        });
        let only = if candidates.len() == 1 { " " } else { "" };
        let start = before[..start].chars().count();
        // What is the same may be shorter than what stands there, where letters differ in case.
        if !only.is_empty() || common.chars().count() >= self.at - start {
            let word: Vec<char> = format!("{common}{only}").chars().collect();
            let length = word.len();
            self.text.splice(start..self.at, word);
            self.at = start + length;
        }
        candidates
    }
}

/// What came of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D in an empty line, or the end of the terminal.
    Eof,
}

/// Reads a line; bytes after it stay in `typed`. `history` is oldest first.
pub(super) fn read(prompt: &str, history: &[String], names: &Names, typed: &mut Vec<u8>) -> Result<Input> {
    let raw = Raw::new()?;
    let mut line = Line::default();
    // The one that is written comes after those that were.
    let (mut place, mut written) = (history.len(), String::new());
    loop {
        show(prompt, &line)?;
        let (key, length) = loop {
            if let Some(found) = key(typed) {
                break found;
            }
            let more = raw.read()?;
            if more.is_empty() {
                return Ok(Input::Eof);
            }
            typed.extend(more);
        };
        typed.drain(..length);
        match key {
            Key::Enter => {
                end(prompt, &line, "")?;
                return Ok(Input::Line(line.text.into_iter().collect()));
            }
            Key::Interrupt => {
                end(prompt, &line, "^C")?;
                return Ok(Input::Interrupted);
            }
            Key::Eof if line.text.is_empty() => {
                end(prompt, &line, "")?;
                return Ok(Input::Eof);
            }
            Key::Eof => line.apply(Key::Delete),
            Key::Up | Key::Down => {
                if place == history.len() {
                    written = line.text.iter().collect();
                }
                place = if key == Key::Up { place.saturating_sub(1) } else { (place + 1).min(history.len()) };
                line = Line::of(history.get(place).unwrap_or(&written));
            }
            Key::Tab => {
                let candidates = line.complete(names);
                if candidates.len() > 1 {
                    end(prompt, &line, "")?;
                    println!("{}", candidates.join("  "));
                }
            }
            key => line.apply(key),
        }
    }
}

/// Draws the line; of a long one, the part where the cursor is.
fn show(prompt: &str, line: &Line) -> Result<()> {
    let room = width().saturating_sub(prompt.chars().count() + 1).max(8);
    let start = line.at.saturating_sub(room);
    let visible: String = line.text[start..].iter().take(room).map(|c| if c.is_control() { ' ' } else { *c }).collect();
    let column = prompt.chars().count() + line.at - start;
    // ECMA-48 §8.3.41 EL, §8.3.20 CUF.
    write(&format!("\r{prompt}{visible}\x1b[K\r\x1b[{column}C"))
}

fn end(prompt: &str, line: &Line, mark: &str) -> Result<()> {
    show(prompt, &Line { text: line.text.clone(), at: line.text.len() })?;
    write(&format!("{mark}\r\n"))
}

fn write(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to the terminal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn bytes_are_keys() {
        for (bytes, expected) in [
            (&b"a"[..], Some((Key::Char('a'), 1))),
            ("äb".as_bytes(), Some((Key::Char('ä'), 2))),
            (b"\xc3", None),
            (b"\xff", None),
            (b"\xff\xff\xff\xff", Some((Key::Unknown, 1))),
            (b"\x80", Some((Key::Unknown, 1))),
            (b"\r\n", Some((Key::Enter, 1))),
            (b"\x03", Some((Key::Interrupt, 1))),
            (b"\x1b[A", Some((Key::Up, 3))),
            (b"\x1bOF.", Some((Key::End, 3))),
            (b"\x1b[3~x", Some((Key::Delete, 4))),
            (b"\x1b[1;5C", Some((Key::Unknown, 6))),
            (b"\x1b[", None),
            (b"\x1bx", Some((Key::Unknown, 2))),
            (b"", None),
        ] {
            assert_eq!(key(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn keys_change_the_line() {
        let mut line = Line::default();
        let mut check = |keys: &[u8], text: &str, at: usize| {
            let mut rest = keys;
            while let Some((key, length)) = key(rest) {
                line.apply(key);
                rest = &rest[length..];
            }
            assert_eq!((line.text.iter().collect::<String>().as_str(), line.at), (text, at));
        };
        check("SELECT ä1".as_bytes(), "SELECT ä1", 9);
        check(b"\x1b[D\x7f", "SELECT 1", 7);
        check(b"\x01\x1b[3~s\x7f\x7f", "ELECT 1", 0);
        check(b"\x05 two\x17", "ELECT 1 ", 8);
        check(b"\x02\x0b", "ELECT 1", 7);
        check(b"\x02\x15", "1", 0);
    }

    #[test]
    fn a_word_is_completed_as_far_as_it_is_sure() {
        let columns = BTreeSet::from(["engine_hours".to_owned(), "engine_load".to_owned(), "speed".to_owned()]);
        let names = Names { tables: BTreeMap::from([("trucks".to_owned(), columns)]) };
        for (typed, text, candidates) in [
            ("SELECT eng", "SELECT engine_", 2),
            ("SELECT engine_h", "SELECT engine_hours ", 1),
            ("SELECT sp", "SELECT speed ", 1),
            ("SELECT zz", "SELECT zz", 0),
        ] {
            let mut line = Line::of(typed);
            assert_eq!(line.complete(&names).len(), candidates, "{typed}");
            assert_eq!((line.text.iter().collect::<String>().as_str(), line.at), (text, text.len()), "{typed}");
        }
    }
}
