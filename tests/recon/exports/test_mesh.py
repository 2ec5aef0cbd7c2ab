import json
import struct

import numpy as np
import open3d
import pytest
from scipy.spatial import KDTree

from recon.core.errors import OutputError
from recon.core.types import SparsePoints
from recon.exports import export
from recon.exports.mesh import write_mesh
from recon.settings import CloudSettings
from recon.store.map import MapStore, open_map
from tests.support import PLANE_DEPTH, make_map, plane_texture


@pytest.fixture(scope="module")
def reconstruction(tmp_path_factory):
    return make_map(tmp_path_factory.mktemp("map"))


def test_the_surface_is_the_plane_with_its_colours(reconstruction, tmp_path):
    export(reconstruction, "mesh", tmp_path / "mesh.ply", cloud=CloudSettings(voxel=0.08))
    mesh = open3d.io.read_triangle_mesh(str(tmp_path / "mesh.ply"))
    vertices, normals = np.asarray(mesh.vertices), np.asarray(mesh.vertex_normals)
    np.testing.assert_allclose(vertices[:, 2], PLANE_DEPTH, atol=0.02)
    assert np.mean(normals[:, 2] < -0.95) > 0.99  # towards the cameras
    colours = np.asarray(mesh.vertex_colors) * 255
    assert np.abs(colours - plane_texture(vertices)).mean() < 6
    width, height = np.ptp(vertices[:, :2], axis=0)
    assert mesh.get_surface_area() == pytest.approx(width * height, rel=0.2)


def test_glb_is_the_same_surface_in_gltf_axes(reconstruction, tmp_path):
    count = write_mesh(reconstruction, tmp_path / "mesh.ply", CloudSettings(voxel=0.15))
    assert write_mesh(reconstruction, tmp_path / "mesh.glb", CloudSettings(voxel=0.15)) == count
    world, gltf = (open3d.io.read_triangle_mesh(str(tmp_path / f"mesh.{kind}")) for kind in ("ply", "glb"))
    assert len(gltf.triangles) == count
    nearest = KDTree(np.asarray(world.vertices) * (1, -1, -1)).query(np.asarray(gltf.vertices))
    assert nearest[0].max() < 1e-5
    normals = np.asarray(world.vertex_normals)[nearest[1]] * (1, -1, -1)
    np.testing.assert_allclose(np.asarray(gltf.vertex_normals), normals, atol=1e-3)
    srgb, linear = np.asarray(world.vertex_colors)[nearest[1]], np.asarray(gltf.vertex_colors)
    np.testing.assert_allclose(linear, np.where(srgb <= 0.04, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4), atol=0.01)


def test_glb_chunks_are_aligned_and_fill_the_file(reconstruction, tmp_path):
    write_mesh(reconstruction, tmp_path / "mesh.glb", CloudSettings(voxel=0.3))
    content = (tmp_path / "mesh.glb").read_bytes()
    magic, version, length, text_length, kind = struct.unpack_from("<4sIII4s", content)
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON")
    text = json.loads(content[20 : 20 + text_length])
    (binary_length,) = struct.unpack_from("<I", content, 20 + text_length)
    assert text_length % 4 == binary_length % 4 == 0
    assert 28 + text_length + binary_length == length
    assert text["buffers"][0]["byteLength"] <= binary_length


def test_another_suffix_is_refused(reconstruction, tmp_path):
    with pytest.raises(OutputError, match=r"ends in \.ply or \.glb, got .*mesh\.obj"):
        write_mesh(reconstruction, tmp_path / "mesh.obj")


def test_a_map_without_depth_has_no_surface(tmp_path):
    MapStore(tmp_path).write_places((), (), SparsePoints.empty(), complete=True)
    with pytest.raises(OutputError, match="no depth from which to make a surface"):
        write_mesh(open_map(tmp_path), tmp_path / "mesh.ply")
