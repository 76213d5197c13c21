"""Values as bytes, by declared type; and fingerprints of arguments.

`codec_for(type)` writes and reads values, `return_codec(fn)` finds the type in
a function's annotations, `fingerprint` tells whether arguments changed.  What
is written reads back as what it was, or is refused when it is written.

Floor 0.  May import: clock, errors.  Imported by: every floor above.
"""

from everstep.codec.functions import argument_codecs, fingerprint, return_codec
from everstep.codec.values import Codec, canonical, codec_for

__all__ = ["Codec", "argument_codecs", "canonical", "codec_for", "fingerprint", "return_codec"]
