"""`/v1/messages`: Anthropic's form, over chats."""
