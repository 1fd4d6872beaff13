"""Characters that are hard for whoever cuts a text up."""

# Ordinary text seldom meets what is hard for a splitter; this alphabet is made of it.
HARD = (
    "aZ09_.,:;'’-/@#&%$()[]!?=+~ \t\n\u00a0\u200b\u200c\u200d\ufe0f\u0301\u00adé中文あアーไทยहि"
    "👩💻👍🏽🇫🇷❤️ﬁ½٣\x00\x1c\ufeff\U000e0067"
)
