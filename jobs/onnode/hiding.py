"""Values of secret variables, kept out of what ranks print, wherever a block of it ends.

What a program prints in another form (reversed, encoded, in pieces) is not found: this keeps out what is printed by
mistake. Standard library only, Python 3.9 or newer.
"""

import re

HIDDEN = b"[hidden]"
SHORT = 256  # bytes
SHORTEST = 4  # bytes of a line of a value that is looked for: shorter ones are everywhere


class Hider:
    def __init__(self, values):
        """`values`: of text. One of several lines is found line by line, too: programs print them so."""
        wanted = {line.encode(errors="surrogateescape") for value in values for line in (value, *value.splitlines())}
        self.wanted = sorted((word for word in wanted if len(word) >= SHORTEST), key=len, reverse=True)
        self.pattern = re.compile(b"|".join(map(re.escape, self.wanted)))
        self.most = len(self.wanted[0]) - 1 if self.wanted else 0
        # What may be held: of short values the beginnings, of long ones (whose beginnings are too many) themselves.
        self.beginnings = {word[:end] for word in self.wanted if len(word) <= SHORT for end in range(1, len(word))}
        self.long = [word for word in self.wanted if len(word) > SHORT]
        self.firsts = {word[0] for word in self.long}
        self.held = {}  # by stream: what may be the beginning of a value

    def hide(self, stream, data):
        """What of a stream can be passed on now, and not only when more of it has come."""
        if not self.wanted:
            return data
        data = self.held.pop(stream, b"") + data
        at, passed = 0, []
        end = self._open(data, 0)
        for found in self.pattern.finditer(data):
            if found.start() >= end:
                break  # more of it may make a longer one
            passed += (data[at : found.start()], HIDDEN)
            at = found.end()
            if end < at:
                end = self._open(data, at)
        if end < len(data):
            self.held[stream] = data[end:]
        return b"".join((*passed, data[at:end]))

    def _open(self, data, at):
        """Where, from here on, that begins what may be the beginning of a value; else the end."""
        size = len(data)
        for start in range(max(at, size - self.most), size):
            if size - start < SHORT and data[start:] in self.beginnings:
                return start
            if data[start] in self.firsts:
                end = data[start:]
                if any(word.startswith(end) and word != end for word in self.long):
                    return start
        return size

    def text(self, words, *, most=None):
        """`most`: characters after which the text was cut, perhaps in the middle of a value."""
        if not self.wanted:
            return words
        data = self.pattern.sub(HIDDEN, words.encode(errors="replace"))
        if most is not None and len(words) >= most and (end := self._open(data, 0)) < len(data):
            data = data[:end] + HIDDEN
        return data.decode(errors="replace")

    def rest(self):
        """(stream, data) of what is held, when nothing more will come."""
        held, self.held = self.held, {}
        return [(stream, self.pattern.sub(HIDDEN, data)) for stream, data in held.items()]
