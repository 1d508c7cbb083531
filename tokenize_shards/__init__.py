"""Tokenizers, and the offline workers that turn label shards into token shards. Never imports trainer."""
