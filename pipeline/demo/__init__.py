"""The demo: photos under free licences with captions of our own, and the settings that show it all in five minutes."""
