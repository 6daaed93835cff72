"""Data spaces at the gateway: building and searching them, answering from them, and OpenAI's vector stores over them."""
