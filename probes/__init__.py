"""What is there, and what is it: browsing storage systems and recognising disk images.

Nothing here imports Textual or starts QEMU.
"""
