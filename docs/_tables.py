def write_pages(root, target):
    pass
